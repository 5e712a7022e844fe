package zk

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-zookeeper/zk"

	"github.com/kateway/kateway/internal/errs"
)

// maxRequest is what servers take (jute.maxbuffer). They close the connection on one that is larger.
const maxRequest = 1<<20 - 1

// Node is what ZooKeeper knows of a node beside its content.
type Node struct {
	Version int32 // of the content; it grows with each change
	Owner   int64 // the session that an ephemeral node lives with; 0 for others
	Created int64 // the number of the change that made the node; later ones have higher numbers, in all of ZooKeeper
}

// Get answers the content of a node and its version.
func (c *Client) Get(ctx context.Context, path string) (data []byte, version int32, err error) {
	v, err := call(ctx, c, "get", path, func() (content, error) { return c.read(c.full(path)) })
	return v.data, v.version, err
}

// Children answers the names of a node's children, sorted.
func (c *Client) Children(ctx context.Context, path string) ([]string, error) {
	return call(ctx, c, "list", path, func() ([]string, error) { return c.list(c.full(path)) })
}

// Stat tells of a node without its content.
func (c *Client) Stat(ctx context.Context, path string) (Node, error) {
	return call(ctx, c, "stat", path, func() (Node, error) {
		there, stat, err := c.conn.Exists(c.full(path))
		if err == nil && !there {
			err = zk.ErrNoNode
		}
		if err != nil {
			return Node{}, err
		}
		return Node{Version: stat.Version, Owner: stat.EphemeralOwner, Created: stat.Czxid}, nil
	})
}

// Owner answers the session that an ephemeral node lives with, 0 for one that stays.
func (c *Client) Owner(ctx context.Context, path string) (session int64, err error) {
	n, err := c.Stat(ctx, path)
	return n.Owner, err
}

// Create makes a node that stays, and those above it where they are missing.
func (c *Client) Create(ctx context.Context, path string, data []byte) error {
	_, err := c.create(ctx, path, data, zk.FlagPersistent, nil)
	return err
}

// CreateEphemeral makes a node that goes with our session, and those above it where they are missing. After ErrPerhapsDone
// it may be there, or yet come: see who its owner is.
func (c *Client) CreateEphemeral(ctx context.Context, path string, data []byte) error {
	_, err := c.create(ctx, path, data, zk.FlagEphemeral, nil)
	return err
}

// ReplaceEphemeral deletes a node of any session and makes it anew, so that it goes with ours: nobody sees it missing.
func (c *Client) ReplaceEphemeral(ctx context.Context, path string, data []byte) error {
	full := c.full(path)
	if err := fits("replace", path, full, data); err != nil {
		return err
	}
	_, err := change(ctx, c, "replace", path, func() (struct{}, error) {
		_, err := c.conn.Multi(&zk.DeleteRequest{Path: full, Version: -1},
			&zk.CreateRequest{Path: full, Data: data, Acl: c.acl, Flags: zk.FlagEphemeral})
		return struct{}{}, err
	}, nil)
	return err
}

// CreateSequence makes a node that goes with our session. Its path is the prefix, something that no other node has, and
// the number of the children that the node above it ever got, as ten digits. A node whose name was not learned, since the
// connection broke or ctx ended, is deleted as soon as that can be done.
func (c *Client) CreateSequence(ctx context.Context, prefix string, data []byte) (path string, err error) {
	prefix += rand.Text()[:12] + "-"
	full, err := c.create(ctx, prefix, data, zk.FlagEphemeralSequential, func(string, error) { c.Discard(prefix) })
	if err != nil && (errors.Is(err, ErrPerhapsDone)) {
		c.Discard(prefix)
	}
	return strings.TrimPrefix(full, c.cfg.Chroot), err
}

func (c *Client) create(ctx context.Context, path string, data []byte, mode int32, late func(string, error)) (string, error) {
	full := c.full(path)
	if err := fits("create", path, full, data); err != nil {
		return "", err
	}
	if data == nil {
		data = []byte{}
	}
	return change(ctx, c, "create", path, func() (string, error) {
		made, err := c.conn.Create(full, data, mode, c.acl)
		for try := 0; gone(err) && try < 3; try++ { // more than once only if somebody deletes them meanwhile
			if err = c.makeAll(full[:strings.LastIndexByte(full, '/')]); err != nil {
				break
			}
			made, err = c.conn.Create(full, data, mode, c.acl)
		}
		return made, err
	}, late)
}

// Set replaces the content of a node that has the version, -1: any, and answers the new version.
func (c *Client) Set(ctx context.Context, path string, data []byte, version int32) (newVersion int32, err error) {
	full := c.full(path)
	if err := fits("set", path, full, data); err != nil {
		return 0, err
	}
	return change(ctx, c, "set", path, func() (int32, error) {
		stat, err := c.conn.Set(full, data, version)
		if err != nil {
			return 0, err
		}
		return stat.Version, nil
	}, nil)
}

// Delete deletes a node that has the version, -1: any, and no children.
func (c *Client) Delete(ctx context.Context, path string, version int32) error {
	_, err := change(ctx, c, "delete", path, func() (struct{}, error) {
		return struct{}{}, c.conn.Delete(c.full(path), version)
	}, nil)
	return err
}

func fits(op, path, full string, data []byte) error {
	if n := len(full) + len(data) + 256; n > maxRequest {
		return fmt.Errorf("zookeeper %s %s: %d bytes, servers take %d: %w", op, path, n, maxRequest, errs.TooLarge)
	}
	return nil
}

// full is the path as the server knows it.
func (c *Client) full(path string) string {
	if path == "/" && c.cfg.Chroot != "" {
		return c.cfg.Chroot
	}
	return c.cfg.Chroot + path
}

type content struct {
	data    []byte
	version int32
}

func (c *Client) read(full string) (content, error) {
	data, stat, err := c.conn.Get(full)
	if err != nil {
		return content{}, err
	}
	return content{data, stat.Version}, nil
}

func (c *Client) list(full string) ([]string, error) {
	names, _, err := c.conn.Children(full)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	return names, nil
}

// call does what only reads.
func call[T any](ctx context.Context, c *Client, op, path string, f func() (T, error)) (T, error) {
	v, _, err := run(ctx, c, f, nil)
	return v, explain(op, path, false, err)
}

// change does what writes. late is called with the outcome when the caller has gone before it was known; nil: nothing.
func change[T any](ctx context.Context, c *Client, op, path string, f func() (T, error), late func(T, error)) (T, error) {
	v, sent, err := run(ctx, c, f, late)
	return v, explain(op, path, sent, err)
}

// run calls f when there is a connection and a free slot. f goes on when ctx ends, until the library has an answer or
// the connection is lost, and holds its slot for so long. sent is false when f was not called.
func run[T any](ctx context.Context, c *Client, f func() (T, error), late func(T, error)) (v T, sent bool, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.cfg.Session, fmt.Errorf("no answer in %v", c.cfg.Session))
	defer cancel()
	stop := context.AfterFunc(c.ctx, cancel)
	defer stop()
	if err := c.await(ctx); err != nil {
		return v, false, err
	}
	if err := c.slots.Acquire(ctx, 1); err != nil {
		return v, false, fmt.Errorf("%d calls are under way: %w", inFlight, context.Cause(ctx))
	}
	type outcome struct {
		v   T
		err error
	}
	done, left := make(chan outcome), make(chan struct{})
	go func() {
		defer c.slots.Release(1)
		v, err := f()
		select {
		case done <- outcome{v, err}:
		case <-left:
			if late != nil {
				late(v, err)
			}
		}
	}()
	select {
	case o := <-done:
		return o.v, true, o.err
	case <-ctx.Done():
		close(left)
		return v, true, context.Cause(ctx)
	}
}

// await waits a moment for a connection.
func (c *Client) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errors.New("not connected"))
	defer cancel()
	for {
		state, changed := c.State()
		if state.Connected {
			return ctx.Err()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

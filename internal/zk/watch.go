package zk

import (
	"context"
	"errors"

	"github.com/go-zookeeper/zk"

	"github.com/kateway/kateway/internal/errs"
)

// watched is what a watch is for: a node's coming, going and content, or its children.
type watched struct {
	path     string // in full
	children bool
}

// watch is shared by all who watch the same. So there is one at most in the library for each node, however often it is
// asked for: the library forgets a watch only when it fires.
type watch struct {
	changed chan struct{} // closed when it fired, when the session is lost, and after each new connection: the library may miss what happened in between
	armed   bool          // the server knows of it
}

// Watch is Get, and answers a channel that is closed when the node has changed, come or gone since; and now and then for
// nothing, such as when the connection was lost: read again then. NotFound: changed is valid, and waits for the node.
func (c *Client) Watch(ctx context.Context, path string) (data []byte, version int32, changed <-chan struct{}, err error) {
	full := c.full(path)
	w, arm := c.join(watched{path: full})
	v, err := call(ctx, c, "watch", path, func() (content, error) {
		if arm {
			if err := c.armed(watched{path: full}, w, c.armNode(full)); err != nil {
				return content{}, err
			}
		}
		return c.read(full)
	})
	if err != nil && !errors.Is(err, errs.NotFound) {
		return nil, 0, nil, err
	}
	return v.data, v.version, w.changed, err
}

// WatchChildren is Children, and answers a channel that is closed when a child has come or gone since; and now and then
// for nothing: read again then. NotFound: changed is valid, and waits for the node.
func (c *Client) WatchChildren(ctx context.Context, path string) (names []string, changed <-chan struct{}, err error) {
	full := c.full(path)
	for {
		names, changed, err = c.watchChildren(ctx, path, full)
		if !errors.Is(err, errs.NotFound) {
			return names, changed, err
		}
		var missing error
		if _, _, changed, missing = c.Watch(ctx, path); missing != nil {
			return nil, changed, missing // NotFound still, or worse
		}
	}
}

func (c *Client) watchChildren(ctx context.Context, path, full string) ([]string, <-chan struct{}, error) {
	key := watched{path: full, children: true}
	w, arm := c.join(key)
	names, err := call(ctx, c, "watch children of", path, func() ([]string, error) {
		if arm {
			_, _, _, err := c.conn.ChildrenW(full)
			if err := c.armed(key, w, err); err != nil {
				return nil, err
			}
		}
		return c.list(full)
	})
	if err != nil {
		return nil, nil, err
	}
	return names, w.changed, nil
}

func (c *Client) armNode(full string) error {
	_, _, _, err := c.conn.ExistsW(full)
	return err
}

// join answers the watch, and whether the caller has to make the server know of it: each who finds it unknown does, since
// he may not read before.
func (c *Client) join(key watched) (w *watch, arm bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w = c.watches[key]
	if w == nil {
		w = &watch{changed: make(chan struct{})}
		c.watches[key] = w
	}
	return w, !w.armed
}

// armed notes how making the server know of it went, and answers that.
func (c *Client) armed(key watched, w *watch, err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.watches[key] != w: // fired or dropped meanwhile: its channel is closed
	case err == nil:
		w.armed = true
	case !w.armed:
		delete(c.watches, key)
		close(w.changed)
	}
	return err
}

// fired is called for the library's events of nodes.
func (c *Client) fired(e zk.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch e.Type {
	case zk.EventNodeCreated, zk.EventNodeDataChanged:
		c.fire(watched{path: e.Path})
	case zk.EventNodeChildrenChanged:
		c.fire(watched{path: e.Path, children: true})
	case zk.EventNodeDeleted:
		c.fire(watched{path: e.Path})
		c.fire(watched{path: e.Path, children: true})
	default: // that the library no longer watches: dropWatches knows already
	}
}

// fire needs mu.
func (c *Client) fire(key watched) {
	if w := c.watches[key]; w != nil {
		close(w.changed)
		delete(c.watches, key)
	}
}

// dropWatches is for the end of a session: the server has forgotten them, and so does the library. It needs mu.
func (c *Client) dropWatches() {
	for key := range c.watches {
		c.fire(key)
	}
}

// renewWatches is for a new connection: the library tells the server of its watches by itself, so that they need not be
// made again; but everybody reads again. It needs mu.
func (c *Client) renewWatches() {
	for key, w := range c.watches {
		if !w.armed {
			c.fire(key)
			continue
		}
		close(w.changed)
		c.watches[key] = &watch{changed: make(chan struct{}), armed: true}
	}
}

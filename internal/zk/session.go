package zk

import (
	"errors"
	"strings"
	"time"

	"github.com/go-zookeeper/zk"
)

// link is the connection as the library has it.
type link struct {
	up      bool
	session int64
	timeout time.Duration
	server  string // of the newest
}

// event is called by the library for all that happens, before anybody can see its effects. It must not block.
func (c *Client) event(e zk.Event) {
	if e.Type != zk.EventSession {
		c.fired(e)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch e.State {
	case zk.StateHasSession:
		session, timeout := c.dials.good()
		if session != c.link.session {
			c.dropWatches()
		}
		// Of a first connection there are no watches; credentials are shown, and their answer read, before watches are told of.
		if c.link.session != 0 && len(c.watches) > 0 && c.cfg.Credentials == "" {
			c.dials.holdReads()
		}
		c.renewWatches()
		c.link = link{up: true, session: session, timeout: timeout, server: e.Server}
	case zk.StateExpired:
		c.link.up, c.link.session = false, 0
		c.dropWatches()
	case zk.StateDisconnected:
		c.link.up = false
	default:
		return
	}
	c.wake()
}

func (c *Client) wake() {
	select {
	case c.news <- struct{}{}:
	default: // it will look anyway
	}
}

// run makes public what event noted: a new connection is prepared first.
func (c *Client) run() {
	var prepared bool // authenticated once: the library does it by itself on later connections
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-c.news:
		}
		c.mu.Lock()
		now, was := c.link, c.state
		c.mu.Unlock()
		if now.up && !prepared {
			prepared = c.prepare()
			if !prepared {
				continue // the connection was lost; the next one wakes us
			}
		}
		c.tell(now, was)
		if now.up {
			c.discard(now.session)
		}
	}
}

func (c *Client) tell(now link, was State) {
	is := State{Connected: now.up, Session: now.session, Timeout: now.timeout}
	if now.session == 0 {
		is.Timeout = 0
	}
	switch {
	case was.Session != 0 && is.Session != was.Session:
		c.log.Warn("zookeeper session lost, our nodes are gone", "session", was.Session)
	case was.Connected && !is.Connected:
		c.log.Warn("zookeeper connection lost", "session", is.Session)
	}
	if is.Connected && (!was.Connected || is.Session != was.Session) {
		c.log.Info("zookeeper connected", "server", now.server, "session", is.Session, "timeout", is.Timeout)
	}
	c.publish(is)
}

// prepare authenticates us and makes the chroot. It answers false when the connection was lost over it.
func (c *Client) prepare() bool {
	if c.cfg.Credentials != "" {
		if err := c.conn.AddAuth("digest", []byte(c.cfg.Credentials)); err != nil {
			c.log.Warn("zookeeper credentials not taken", "error", err)
			return false
		}
	}
	if c.cfg.Chroot == "" {
		return true
	}
	err := c.makeAll(c.cfg.Chroot)
	if lost(err) {
		return false
	}
	if err != nil {
		c.log.Error("zookeeper chroot can't be made: make it by hand, or give us the right", "path", c.cfg.Chroot, "error", err)
	}
	return true
}

// makeAll makes a node of the full path and those above it. It is called by those who have a slot, or need none.
func (c *Client) makeAll(path string) error {
	if there, _, err := c.conn.Exists(path); err != nil || there {
		return err
	}
	for end := 1; end <= len(path); end++ {
		if end < len(path) && path[end] != '/' {
			continue
		}
		_, err := c.conn.Create(path[:end], []byte{}, zk.FlagPersistent, c.acl)
		// Who may not create below a node is told so also where the child exists.
		if err != nil && !errors.Is(err, zk.ErrNodeExists) && (!errors.Is(err, zk.ErrNoAuth) || end == len(path)) {
			return err
		}
	}
	return nil
}

// Discard deletes our nodes whose path begins with the prefix: now, or as soon as there is a connection, in the background.
// With the session they go anyway. It is for sequence nodes whose owner has left, or never learned their names.
func (c *Client) Discard(prefix string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.discards[c.full(prefix)] = struct{}{}
	c.wake()
}

// discard does what Discard asked for in this session.
func (c *Client) discard(session int64) {
	c.mu.Lock()
	var prefixes []string
	for p := range c.discards {
		prefixes = append(prefixes, p)
	}
	c.mu.Unlock()
	for _, prefix := range prefixes {
		if err := c.deleteAll(prefix, session); lost(err) {
			return // the next connection, or session, tries again
		} else if err != nil {
			c.log.Warn("zookeeper node can't be deleted", "prefix", prefix, "error", err)
		}
		c.mu.Lock()
		delete(c.discards, prefix)
		c.mu.Unlock()
	}
}

func (c *Client) deleteAll(prefix string, session int64) error {
	cut := strings.LastIndexByte(prefix, '/')
	parent := prefix[:max(cut, 1)]
	names, _, err := c.conn.Children(parent)
	if err != nil && !gone(err) {
		return err
	}
	for _, name := range names {
		if !strings.HasPrefix(name, prefix[cut+1:]) {
			continue
		}
		path := strings.TrimSuffix(parent, "/") + "/" + name
		there, stat, err := c.conn.Exists(path)
		if err == nil && there && stat.EphemeralOwner == session {
			err = c.conn.Delete(path, -1)
		}
		if err != nil && !gone(err) {
			return err
		}
	}
	return nil
}

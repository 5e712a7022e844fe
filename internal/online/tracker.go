package online

import (
	"cmp"
	"context"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxUses = 64               // per connection; then the least recently used one goes
	recent  = 60 * time.Second // how long a use is listed after its last request has ended
)

// Tracker has the connections of a process. What it keeps is bounded by them: 64 uses each. All methods of the package
// may be called concurrently.
type Tracker struct {
	start time.Time // times are kept as distances from it: reading that clock is cheaper
	mu    sync.Mutex
	conns map[net.Conn]*Conn
}

// NewTracker makes a tracker without connections.
func NewTracker() *Tracker {
	return &Tracker{start: time.Now(), conns: map[net.Conn]*Conn{}}
}

type connKey struct{}

// ConnContext is for http.Server.ConnContext: from now on the connection counts, until Closed.
func (t *Tracker) ConnContext(ctx context.Context, c net.Conn) context.Context {
	conn := &Conn{tracker: t, conn: c}
	t.mu.Lock()
	t.conns[c] = conn
	t.mu.Unlock()
	return context.WithValue(ctx, connKey{}, conn)
}

// Closed forgets a connection. It is to be called when http.Server.ConnState says closed; who hijacked one calls
// [Conn.Closed]. Of one that is not known it does nothing.
func (t *Tracker) Closed(c net.Conn) {
	t.mu.Lock()
	delete(t.conns, c)
	t.mu.Unlock()
}

// List is every use that is under way, or ended less than 60 s ago on a connection that is still open; the longest
// running first. Gateway is left empty.
func (t *Tracker) List() []Client {
	t.mu.Lock()
	conns := make([]*Conn, 0, len(t.conns))
	for _, c := range t.conns {
		if c.uses.Load() != nil {
			conns = append(conns, c)
		}
	}
	t.mu.Unlock()
	var list []Client
	for _, c := range conns {
		list = c.append(list)
	}
	slices.SortFunc(list, func(a, b Client) int {
		return cmp.Or(a.Since.Compare(b.Since), strings.Compare(a.Remote, b.Remote))
	})
	return list
}

// now is the time since the tracker's start.
func (t *Tracker) now() time.Duration { return time.Since(t.start) }

// Conn is one connection of a client, with HTTP/2 the way of many requests at a time. A nil Conn counts nothing.
type Conn struct {
	tracker *Tracker
	conn    net.Conn               // its address is asked for late: a proxy's connection says first whose it is, and that is waited for
	from    string                 // whose requests they are, where a proxy has told
	root    *Conn                  // which has the uses then
	mu      sync.Mutex             // of who writes uses
	uses    atomic.Pointer[[]*use] // never changed in place, so that a publish finds its own without a lock
}

// Of is the connection that a request came on; nil where nobody tracks it.
func Of(ctx context.Context) *Conn {
	c, _ := ctx.Value(connKey{}).(*Conn)
	return c
}

// Behind is a context for a request that came by a proxy from that address: it is listed as the client's.
func Behind(ctx context.Context, from string) context.Context {
	c := Of(ctx)
	if c == nil {
		return ctx
	}
	return context.WithValue(ctx, connKey{}, &Conn{tracker: c.tracker, conn: c.conn, from: from, root: c})
}

// Closed forgets the connection. It is to be called by who hijacked it, when it is closed.
func (c *Conn) Closed() {
	if c != nil {
		c.tracker.Closed(c.conn)
	}
}

// what tells uses of a connection apart.
type what struct{ kind, app, owner, topic, ver, group, from string }

// use is what is counted. Its times are distances from the tracker's start, in nanoseconds.
type use struct {
	what
	since    time.Duration
	open     atomic.Int64 // requests under way
	last     atomic.Int64 // when it was used last
	messages atomic.Int64
	bytes    atomic.Int64
}

func (u *use) count(messages int, bytes int64, now time.Duration) {
	u.messages.Add(int64(messages))
	u.bytes.Add(bytes)
	u.last.Store(int64(now))
}

// over reports whether the use ended too long ago to be listed.
func (u *use) over(now time.Duration) bool {
	return u.open.Load() <= 0 && now-time.Duration(u.last.Load()) >= recent
}

// Published counts a publish that was answered. The first one of a connection to a topic allocates, those that follow
// take no lock.
func (c *Conn) Published(app string, owner, topic, ver string, messages int, bytes int64) {
	if c == nil {
		return
	}
	now := c.tracker.now()
	w := what{kind: Pub, app: app, owner: owner, topic: topic, ver: ver, from: c.from}
	if c.root != nil {
		c = c.root
	}
	u := c.find(&w, now)
	if u == nil {
		u = c.add(&w, now, 0)
	}
	u.count(messages, bytes, now)
}

// find is the use that is listed as w; nil where there is none.
func (c *Conn) find(w *what, now time.Duration) *use {
	list := c.uses.Load()
	if list == nil {
		return nil
	}
	for _, u := range *list {
		if u.topic == w.topic && u.kind == w.kind && u.owner == w.owner && u.ver == w.ver && u.app == w.app && u.group == w.group && u.from == w.from {
			if u.over(now) {
				return nil // what comes now begins anew
			}
			return u
		}
	}
	return nil
}

// add finds or makes the use that is listed as w, with so many more requests under way.
func (c *Conn) add(w *what, now time.Duration, open int64) *use {
	c.mu.Lock()
	defer c.mu.Unlock()
	if u := c.find(w, now); u != nil {
		u.open.Add(open)
		return u
	}
	u := &use{what: w.clone(), since: now}
	u.open.Store(open)
	u.last.Store(int64(now))
	var list []*use
	if old := c.uses.Load(); old != nil {
		list = slices.DeleteFunc(slices.Clone(*old), func(u *use) bool { return u.over(now) })
	}
	if len(list) == maxUses {
		least := slices.Index(list, leastRecent(list))
		list = slices.Delete(list, least, least+1)
	}
	list = append(list, u)
	c.uses.Store(&list)
	return u
}

// leastRecent is what goes for something new: of those with no request under way, where there are any.
func leastRecent(list []*use) *use {
	return slices.MinFunc(list, func(a, b *use) int {
		return cmp.Or(cmp.Compare(min(a.open.Load(), 1), min(b.open.Load(), 1)), cmp.Compare(a.last.Load(), b.last.Load()))
	})
}

// clone copies the names: they may be parts of a request's head, which is not to be kept.
func (w *what) clone() what {
	return what{
		kind: strings.Clone(w.kind), app: strings.Clone(w.app), owner: strings.Clone(w.owner),
		topic: strings.Clone(w.topic), ver: strings.Clone(w.ver), group: strings.Clone(w.group), from: strings.Clone(w.from),
	}
}

// append lists the connection's uses.
func (c *Conn) append(list []Client) []Client {
	now, remote := c.tracker.now(), c.conn.RemoteAddr().String()
	for _, u := range *c.uses.Load() {
		if u.over(now) {
			continue
		}
		list = append(list, Client{
			Kind: u.kind, App: u.app, Owner: u.owner, Topic: u.topic, Ver: u.ver, Group: u.group,
			Remote: cmp.Or(u.from, remote), Since: c.tracker.start.Add(u.since).Round(0),
			Messages: u.messages.Load(), Bytes: u.bytes.Load(),
		})
	}
	return list
}

// Use is one request that subscribes. A nil Use counts nothing.
type Use struct {
	c    *Conn
	u    *use
	done atomic.Bool
}

// Subscribed begins a use of one of the kinds Poll, Stream, SSE and WS. Done ends it.
func (c *Conn) Subscribed(kind, app, owner, topic, ver, group string) *Use {
	if c == nil {
		return nil
	}
	w := what{kind, app, owner, topic, ver, group, c.from}
	if c.root != nil {
		c = c.root
	}
	return &Use{c: c, u: c.add(&w, c.tracker.now(), 1)}
}

// Count adds messages that were given to the client, and their bytes.
func (s *Use) Count(messages int, bytes int64) {
	if s != nil {
		s.u.count(messages, bytes, s.c.tracker.now())
	}
}

// Done says that the request has ended. A second Done does nothing.
func (s *Use) Done() {
	if s == nil || s.done.Swap(true) {
		return
	}
	s.u.last.Store(int64(s.c.tracker.now()))
	s.u.open.Add(-1)
}

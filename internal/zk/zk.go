// Package zk is a session with ZooKeeper as this project needs it: calls end with their context, watches are not lost, and
// all of ZooKeeper being away is an ordinary state. It wraps go-zookeeper/zk, whose calls know no context, wait for ever
// while there is no connection, and go on in a new session without a word.
//
// The kinds of errors that all methods answer: NotFound; Conflict, where a node is there already or has children;
// PreconditionFailed, the version is another; Denied, by the access list; TooLarge; Unavailable, there is no connection or
// it was lost. Where a lost connection may hide a change that was made, the error is [ErrPerhapsDone] too.
package zk

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-zookeeper/zk"
	"golang.org/x/sync/semaphore"

	"github.com/kateway/kateway/internal/errs"
)

const (
	defaultPort    = "2181"
	defaultSession = 6 * time.Second
	patience       = 2 * time.Second // that a call waits for a connection: servers that elect a leader are back by then
	inFlight       = 64              // calls at a time; the next waits
	maxAnswer      = 16 << 20        // bytes of an answer: a list of 100,000 children has 4 MiB
)

// Config says where ZooKeeper is.
type Config struct {
	Servers     []string                                                            // host:port; a name is looked up at each attempt to connect
	Chroot      string                                                              // "/kateway"; before all paths. It is made if absent; "" = none
	Session     time.Duration                                                       // that we may be silent before our ephemeral nodes go; 0 = 6 s. The servers have limits of their own, see State
	Credentials string                                                              // "user:password" for the digest scheme: nodes are ours only. "" = none: nodes are open to all
	TLS         func() *tls.Config                                                  // for a connection made now; nil = plain connections. Servers must have certificates for their hosts
	Log         *slog.Logger                                                        // nil: none
	Dial        func(network, addr string, timeout time.Duration) (net.Conn, error) // nil = net; it must end within the timeout
}

func (c Config) check() error {
	var faults []error
	if len(c.Servers) == 0 {
		faults = append(faults, errors.New("no ZooKeeper server is named"))
	}
	for _, s := range c.Servers {
		if host, port, err := net.SplitHostPort(s); err != nil || host == "" || port == "" {
			faults = append(faults, fmt.Errorf("ZooKeeper server %q: want host:port", s))
		}
	}
	if c.Chroot != "" && !validPath(c.Chroot) {
		faults = append(faults, fmt.Errorf("ZooKeeper chroot %q: want /name or /name/name", c.Chroot))
	}
	if user, _, ok := strings.Cut(c.Credentials, ":"); c.Credentials != "" && (!ok || user == "") {
		faults = append(faults, errors.New("ZooKeeper credentials: want user:password")) // without saying them
	}
	if c.Session < 0 || c.Session > 0 && c.Session < time.Second {
		faults = append(faults, fmt.Errorf("ZooKeeper session of %v: want a second at least", c.Session))
	}
	return errors.Join(faults...)
}

// ParseServers reads the usual form "h1:2181,h2:2181/kateway/x". The port is 2181 where none is given, the chroot "" then.
func ParseServers(s string) (servers []string, chroot string, err error) {
	list, rest, found := strings.Cut(s, "/")
	if found && rest != "" {
		chroot = "/" + strings.TrimSuffix(rest, "/")
		if !validPath(chroot) {
			return nil, "", fmt.Errorf("chroot %q: want /name or /name/name: %w", chroot, errs.InvalidParam)
		}
	}
	for server := range strings.SplitSeq(list, ",") {
		host, port, err := net.SplitHostPort(server)
		if err != nil { // no port, or nonsense
			host, port = strings.Trim(server, "[]"), defaultPort
		}
		if host == "" || port == "" || strings.ContainsAny(host, "[] \t") || strings.Contains(host, ":") && net.ParseIP(host) == nil {
			return nil, "", fmt.Errorf("server %q: want host:port: %w", server, errs.InvalidParam)
		}
		servers = append(servers, net.JoinHostPort(host, port))
	}
	return servers, chroot, nil
}

// validPath is true for /a/b: no empty part, no dots as a part, nothing that can't be printed.
func validPath(path string) bool {
	parts := strings.Split(path, "/")
	if len(parts) < 2 || parts[0] != "" {
		return false
	}
	bad := func(r rune) bool {
		return r < ' ' || r >= 0x7f && r < 0xa0 || r >= 0xd800 && r <= 0xf8ff || r >= 0xfff0
	}
	return !slices.ContainsFunc(parts[1:], func(p string) bool {
		return p == "" || p == "." || p == ".." || strings.ContainsFunc(p, bad)
	})
}

// State is how we stand with ZooKeeper.
type State struct {
	Connected bool
	Session   int64         // its id; 0 = none. It stays while we are not connected, until a server says that it is gone
	Timeout   time.Duration // of this session, as the servers granted it
}

// Client is a session with ZooKeeper, and the next one when it is lost. Its methods may be called concurrently; 64 calls
// are under way at a time, others wait for their turn. A call waits two seconds for a connection, and for an answer as long
// as a session lasts; then it is Unavailable, where its context did not end before.
type Client struct {
	cfg   Config
	log   *slog.Logger
	acl   []zk.ACL
	conn  *zk.Conn
	dials dialer

	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	loops   sync.WaitGroup      // the run loop, and the library's
	slots   *semaphore.Weighted // for calls; one is held as long as the library works on it, even when its caller has gone
	news    chan struct{}       // wakes the run loop
	closing sync.Once

	mu       sync.Mutex
	link     link                // what the library says
	state    State               // what we say, after preparing a new connection
	changed  chan struct{}       // closed when state changes
	watches  map[watched]*watch  // see watch.go
	discards map[string]struct{} // prefixes of our nodes that nobody needs; see Discard
}

// Open answers at once; whether there is a connection is told by State. Only faults of the Config are errors.
func Open(cfg Config) (*Client, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", errs.InvalidParam, err)
	}
	if cfg.Session == 0 {
		cfg.Session = defaultSession
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c := &Client{
		cfg: cfg, log: cfg.Log, acl: zk.WorldACL(zk.PermAll),
		slots: semaphore.NewWeighted(inFlight), news: make(chan struct{}, 1), changed: make(chan struct{}),
		watches: map[watched]*watch{}, discards: map[string]struct{}{},
	}
	if cfg.Credentials != "" {
		c.acl = zk.AuthACL(zk.PermAll)
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.dials = dialer{ctx: c.ctx, dial: cfg.Dial, tls: cfg.TLS, handshake: max(cfg.Session/3, time.Second), log: cfg.Log}
	conn, events, err := zk.Connect(cfg.Servers, cfg.Session, zk.WithHostProvider(&hosts{}), zk.WithDialer(c.dials.open),
		zk.WithEventCallback(c.event), zk.WithLogger(quiet{cfg.Log}), zk.WithLogInfo(false), zk.WithMaxBufferSize(maxAnswer))
	if err != nil {
		c.cancel()
		return nil, fmt.Errorf("ZooKeeper: %w", err)
	}
	c.conn = conn
	c.loops.Go(func() {
		for range events { // we listen by event, which drops none; the library closes it when it has ended
		}
	})
	c.loops.Go(c.run)
	return c, nil
}

// Close ends the session, so that its ephemeral nodes go at once, and returns when nothing of ours runs any more: after
// about a second at most if no server answers. Calls under way are Unavailable, watches fire.
func (c *Client) Close() {
	c.closing.Do(func() {
		if s, _ := c.State(); !s.Connected {
			c.cancel() // nobody to say goodbye to
		}
		c.conn.Close()
		c.cancel()
		c.dials.hangUp()
		c.loops.Wait()
		_ = c.slots.Acquire(context.Background(), inFlight) // all calls have ended: the library answers them when it closes
		c.publish(State{})
		c.mu.Lock()
		defer c.mu.Unlock()
		c.dropWatches()
	})
}

// State tells how we stand, and answers a channel that is closed when that has changed.
func (c *Client) State() (s State, changed <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state, c.changed
}

func (c *Client) publish(s State) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s == c.state {
		return
	}
	c.state = s
	close(c.changed)
	c.changed = make(chan struct{})
}

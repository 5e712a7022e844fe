package sim

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/julienschmidt/httprouter"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/home"
	"github.com/kateway/kateway/internal/httpx"
	"github.com/kateway/kateway/peer"
	"github.com/kateway/kateway/registry"
	regmem "github.com/kateway/kateway/registry/mem"
	"github.com/kateway/kateway/store"
	"github.com/kateway/kateway/store/breaker"
	"github.com/kateway/kateway/store/spool"
)

const (
	sessionTime = 4 * time.Second // after which the registry gives up a gateway that died
	leaveTime   = 3 * time.Second // for groups to go to other gateways, as in package gateway
	closeTime   = 30 * time.Second
)

// machine is where a gateway runs: one process after the other, on one disk.
type machine struct {
	w  *world
	id string

	mu      sync.Mutex
	fs      *vfs.MemFS
	life    *life // nil: nothing runs
	lives   int
	blind   time.Time   // until when lists of the registry do not arrive
	seen    time.Time   // when the registry was last reached again
	old     func()      // takes a process that died off the registry's list
	falling atomic.Bool // a fault has it down
}

// life is a gateway's process, wired as package gateway does it: the groups, the way to their homes, and the publishers' breaker
// and spool before the store.
type life struct {
	m      *machine
	name   string // of machine and process
	link   *link
	spool  *spool.Spool
	hub    *group.Hub
	router *home.Router
	pool   *peer.Pool
	server *http.Server
	ctx    context.Context // ends with the process
	stop   context.CancelFunc
	unlist context.CancelFunc
	known  chan struct{} // closed when the registry has told of us
	wg     sync.WaitGroup

	mu       sync.Mutex
	rng      *rand.Rand
	fuse     int // file operations until the power goes; 0: it stays
	down     func()
	serving  bool           // takes new requests
	requests sync.WaitGroup // publishes under way
}

func (m *machine) current() *life {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.life
}

// boot starts a process.
func (m *machine) boot() {
	m.w.net.up(m.id)
	m.mu.Lock()
	m.lives++
	if m.old != nil {
		m.old() // who is listed under its name takes its place
	}
	name := m.id + string(rune('a'+m.lives-1))
	fs := m.fs
	m.mu.Unlock()
	l := &life{m: m, name: name, link: newLink(m.w, name), known: make(chan struct{}), rng: m.w.random("power of " + name)}
	l.ctx, l.stop = context.WithCancel(context.Background())
	l.open(fs)
	l.join()
	m.mu.Lock()
	m.life = l
	m.mu.Unlock()
	select {
	case <-l.known:
	case <-time.After(time.Second):
	}
	l.mu.Lock()
	l.serving = true
	l.mu.Unlock()
	m.w.trace("%s serves", name)
}

// open makes the parts and serves other gateways.
func (l *life) open(fs vfs.FS) {
	w, id := l.m.w, l.m.id
	log, metrics := w.log.With("at", l.name), prometheus.NewRegistry()
	toStore := breaker.New(breaker.Config{Store: l.link, Log: log, Metrics: metrics}).Publisher()
	known := w.plan.partitions * int32(w.plan.known)
	var err error
	if l.spool, err = spool.Open(spool.Config{
		Dir: "spool", FS: w.bugs.disk(errorfs.Wrap(fs, l)), Next: toStore, Drain: l.link, Reader: l.link, Partitions: func(string) int32 { return known },
		Log: log, Metrics: metrics, MemTable: 64 << 10,
	}); err != nil {
		w.fail("%s: the spool does not open: %v", l.name, err)
		return
	}
	secrets := func() [][]byte { return [][]byte{secret} }
	l.pool = peer.NewPool(peer.PoolConfig{Self: id, Secrets: secrets, Log: log, Dial: w.net.dialer(id)})
	l.hub = group.NewHub(group.Config{
		Store: l.link, Publisher: l.link, Admin: l.link, Policy: w.policy, Instance: id, Roams: true,
		Gone:   func(instance string) bool { return l.router.Gone(instance) },
		Secret: func() []byte { return secret }, Log: log, Metrics: metrics,
	})
	l.router = home.New(home.Config{Self: id, Hub: l.hub, Peers: l.pool, Reconnected: l.m.reconnected, Log: log, Metrics: metrics})
	mux := httprouter.New()
	for _, r := range l.router.Routes() {
		mux.Handler(r.Method, r.Path, httpx.Wrap(r.Path, r.Handler, log, nobody{}))
	}
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	l.server = &http.Server{Handler: mux, Protocols: p, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	ln := w.net.listen(id + ":1")
	l.wg.Go(func() { _ = l.server.Serve(peer.Secure(ln, secrets, log)) })
}

type nobody struct{}

func (nobody) Observe(*http.Request, string, int, int64, time.Duration) {}

// join lists the gateway and follows the list.
func (l *life) join() {
	is := registry.Instance{ID: l.m.id, Sub: l.m.id + ":2", Peer: l.m.id + ":1", Started: time.Now()}
	var listed context.Context
	listed, l.unlist = context.WithCancel(context.Background())
	session := l.m.w.registry(l.m.id)
	l.wg.Go(func() {
		for listed.Err() == nil {
			if session.Announce(listed, func() registry.Instance { return is }) != nil {
				pause(listed, 500*time.Millisecond) // our former self is listed still
			}
		}
	})
	l.wg.Go(func() { l.follow(session, is) })
}

// follow takes lists, but not while the machine is blind.
func (l *life) follow(session *regmem.Registry, is registry.Instance) {
	lists := session.Watch(l.ctx)
	var latest []registry.Instance
	var told bool
	for {
		blind := l.m.blindFor()
		if blind == 0 && latest != nil && !told {
			told = true
			l.pool.Update(latest)
			l.router.Update(latest)
			if slices.ContainsFunc(latest, func(i registry.Instance) bool { return i == is }) {
				select {
				case <-l.known:
				default:
					close(l.known)
				}
			}
		}
		var again <-chan time.Time
		if blind > 0 {
			again = time.After(blind)
		}
		select {
		case list, ok := <-lists:
			if !ok {
				return
			}
			if latest, told = list, false; blind > 0 {
				l.m.w.happened("registry away")
			}
		case <-again:
		}
	}
}

func (m *machine) blindFor() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.blind.IsZero() {
		return 0
	}
	if d := time.Until(m.blind); d > 0 {
		return d
	}
	m.blind, m.seen = time.Time{}, time.Now()
	return 0
}

func (m *machine) reconnected() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.seen
}

func (l *life) String() string { return "power cut" }

// MaybeError is asked before each file operation. At one of them the power goes.
func (l *life) MaybeError(op errorfs.Op) error {
	if op.Kind.ReadOrWrite() == errorfs.OpIsRead {
		return nil
	}
	l.mu.Lock()
	down := l.down
	if l.fuse == 0 {
		down = nil
	} else if l.fuse--; l.fuse > 0 {
		down = nil
	}
	l.mu.Unlock()
	if down != nil {
		down()
	}
	return nil
}

// burn has the power go, by strike, at the file operation with the number, and reports whether there was one in 3 s. After that it
// goes anyway.
func (l *life) burn(operation int, strike func()) bool {
	gone := make(chan struct{})
	down := sync.OnceFunc(func() {
		strike()
		close(gone)
	})
	l.mu.Lock()
	l.fuse, l.down = operation, down
	l.mu.Unlock()
	select {
	case <-gone:
		return true
	case <-time.After(3 * time.Second):
		down()
		return false
	}
}

// die ends the process at once. The disk keeps what was written, or, where the power goes, what was synced and a part of the rest.
func (l *life) die(power bool) (first bool) {
	m := l.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.life != l || l.link.dead.Load() {
		return false
	}
	l.link.kill() // from now on nobody is told anything
	keep := 100
	if power {
		keep = l.rng.IntN(101)
	}
	m.fs = m.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: keep, RNG: l.rng})
	m.life = nil
	return true
}

// bury cleans up behind a process that died: it can do nothing that anybody notices.
func (l *life) bury(silent bool) {
	w := l.m.w
	w.net.down(l.m.id, silent)
	l.m.mu.Lock()
	l.m.old = l.unlist
	l.m.mu.Unlock()
	w.wg.Go(func() {
		pause(w.calm, sessionTime)
		l.unlist()
	})
	w.wg.Go(func() {
		l.end()
		l.wg.Wait()
	})
}

// end closes all parts.
func (l *life) end() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	l.stop()
	err := errors.Join(l.router.Close(ctx), l.hub.Close(ctx), l.spool.Close(ctx))
	_ = l.server.Close()
	l.pool.Close()
	return err
}

// leave ends the process in order.
func (l *life) leave() {
	l.mu.Lock()
	l.serving = false
	l.mu.Unlock()
	l.router.Leave()
	for began := time.Now(); len(l.hub.Keys()) > 0 && time.Since(began) < leaveTime; {
		pause(l.ctx, 10*time.Millisecond)
	}
	l.unlist()
	l.router.Drain(500 * time.Millisecond)
	l.hub.Drain(500 * time.Millisecond)
	pause(l.ctx, time.Second)
	l.requests.Wait()
	l.m.mu.Lock()
	if l.m.life == l {
		l.m.life = nil
	}
	l.m.mu.Unlock()
	err := l.end()
	if err != nil && !l.link.dead.Load() {
		l.m.w.fail("%s did not end in order: %v", l.name, err)
	}
	l.m.w.net.down(l.m.id, false)
	l.wg.Wait()
}

// enter begins a publish, unless the process takes none. leave it by requests.Done.
func (l *life) enter() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.serving || l.link.dead.Load() {
		return false
	}
	l.requests.Add(1)
	return true
}

func (l *life) dead() bool { return l.link.dead.Load() }

// once is what a publish may be repeated with.
func (l *life) publish(ctx context.Context, once *store.Once, msgs ...*store.Message) error {
	if once != nil {
		return l.spool.PublishOnce(ctx, topicName, store.AckAll, *once, msgs...)
	}
	return l.spool.Publish(ctx, topicName, store.AckAll, msgs...)
}

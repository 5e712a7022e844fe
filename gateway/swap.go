package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/handover"
	"github.com/kateway/kateway/store"
	"github.com/kateway/kateway/store/embedded"
)

// What a gateway gives to the process that takes over. Each has one owner.
const (
	OwnedStore  = "store"  // what lies on the local disk: the embedded store, the files of meta
	OwnedGroups = "groups" // this gateway's places in groups
)

const (
	quietTime  = time.Second            // for requests under way to end, before what they need is given up
	streamTime = 250 * time.Millisecond // the same for streams and polls, whose clients may not read
)

// Successor serves after this gateway: another process, or another gateway in this one.
type Successor interface {
	// Give says that something is free.
	Give(owned string) error
	// Serve waits until it serves, after everything that it waits for was given, and answers what serves a role.
	Serve() (func(Role) http.Handler, error)
}

// succession is a HandOver.
type succession struct {
	to   Successor
	done chan error
}

// laps are how long each step of a hand-over took, for the log.
type laps struct {
	began, last time.Time
	steps       []any // for slog
}

func newLaps() *laps {
	now := time.Now()
	return &laps{began: now, last: now}
}

// lap ends a step. A nil *laps takes no note.
func (l *laps) lap(step string) {
	if l == nil {
		return
	}
	now := time.Now()
	l.steps = append(l.steps, step, now.Sub(l.last))
	l.last = now
}

func (l *laps) args() []any { return append([]any{"took", l.last.Sub(l.began)}, l.steps...) }

// ErrStopped says that the gateway had stopped before it could hand over.
var ErrStopped = errors.New("the gateway has stopped")

// ErrNotFree says that something could not be given up: nobody else can have it before this process ends.
var ErrNotFree = errors.New("what only one process may have could not be given up")

// Sockets are the listening sockets under other names, so that they stay open when the gateway ends. They are the caller's.
func (g *Gateway) Sockets() (list []handover.Socket, err error) {
	for _, s := range g.servers {
		again, err := handover.Duplicate(s.ln)
		if err != nil {
			for _, s := range list {
				_ = s.Close()
			}
			return nil, err
		}
		socket := handover.Socket{Address: s.addr, Given: s.kept, Listener: again}
		for _, r := range s.roles {
			socket.Roles = append(socket.Roles, string(r))
		}
		list = append(list, socket)
	}
	return list, nil
}

// HandOver gives everything to another gateway while Run runs: this one stops accepting connections, ends what is under way,
// and gives up what only one may have; Run then returns nil when the connections that are left have gone. It returns when the other one serves (nil), or will not: then
// nobody does until Pass is called, and everything is free but for ErrNotFree. The sockets of Sockets, taken before, keep
// new connections waiting meanwhile. It may be called once.
func (g *Gateway) HandOver(to Successor) error {
	s := succession{to, make(chan error, 1)}
	select {
	case g.handing <- s:
	case <-g.over:
		return ErrStopped
	}
	select {
	case err := <-s.done:
		return err
	case <-g.over:
		select {
		case err := <-s.done:
			return err
		default:
			return ErrStopped
		}
	}
}

// ID is this gateway's id.
func (g *Gateway) ID() string { return g.cfg.ID }

// HandedOver reports whether Run ended, or is about to end, since another one serves.
func (g *Gateway) HandedOver() bool { return g.relay.held.Load() }

// Pass has the successor's successor answer what still comes here, after HandOver failed.
func (g *Gateway) Pass(next func(Role) http.Handler) { g.relay.open(next) }

// Relieve gets the store ready to be given up soon, while everything goes on.
func (g *Gateway) Relieve(ctx context.Context) {
	if s, ok := g.first.(interface {
		Relieve(ctx context.Context) error
	}); ok {
		if err := s.Relieve(ctx); err != nil {
			g.log.Warn("the store could not be made ready to be given up; that takes longer now", "error", err)
		}
	}
}

// giveUp is what Run does for HandOver.
func (g *Gateway) giveUp(s succession) error {
	l := newLaps()
	limit, cancel := context.WithTimeout(context.Background(), g.cfg.DrainLimit)
	defer cancel()
	g.draining.Store(true)
	g.relay.hold()
	for _, srv := range g.servers {
		_ = srv.ln.Close() // its other name goes on collecting connections
	}
	var err error
	if g.alone() {
		err = g.giveAll(limit, s.to, l)
	} else {
		err = g.giveShared(limit, s.to, l)
	}
	if err == nil {
		g.log.Info("handed over", append(l.args(), "connections", g.connected())...)
	}
	s.done <- err
	if err == nil && !g.alone() {
		g.endShared(limit)
	}
	defer func() { _ = bounded(limit, "access log", g.access.close) }()
	g.letGo(limit)
	passed, cancelled := context.WithTimeout(limit, goodbye)
	defer cancelled()
	g.relay.away.none(passed) // WebSockets are none of the server's connections
	g.shutdown(limit)
	return bounded(limit, "access log", g.access.close)
}

// alone reports whether nobody can publish beside us: the store has one owner.
func (g *Gateway) alone() bool { return g.cfg.StoreKind() == "embedded" || g.deps.Store != nil }

// giveAll gives the groups and the store, and then the other one serves.
func (g *Gateway) giveAll(limit context.Context, to Successor, l *laps) error {
	if err := errors.Join(g.endWork(limit, g.engine.hub.Close), g.engine.close(limit, streamTime)); err != nil { // the store's end ends the rest
		g.log.Warn("handing over: not all of it in order", "error", err)
	}
	l.lap("ended")
	if err := g.closeOwned(limit); err != nil {
		return fmt.Errorf("%w: %w", ErrNotFree, err)
	}
	l.lap("closed")
	if err := errors.Join(to.Give(OwnedGroups), to.Give(OwnedStore)); err != nil {
		return err
	}
	defer l.lap("opened")
	return g.serveNext(to)
}

// giveShared has the other one serve beside us, on a store that is no one's, and then gives it the groups.
func (g *Gateway) giveShared(limit context.Context, to Successor, l *laps) error {
	g.engine.pub.Drain(0)
	quiet, cancel := context.WithTimeout(limit, quietTime)
	g.relay.short.none(quiet)
	cancel()
	if err := g.engine.endPublishes(limit, streamTime); err != nil {
		g.log.Warn("handing over: not all of it in order", "error", err)
	}
	l.lap("ended")
	var served error
	g.endBackground()
	if err := errors.Join(bounded(limit, "spool", g.closeSpool), g.cluster.release()); err != nil {
		return fmt.Errorf("%w: %w", ErrNotFree, err)
	}
	l.lap("closed")
	if served = to.Give(OwnedStore); served == nil {
		served = g.serveNext(to)
	}
	l.lap("opened")
	left := g.endWork(limit, g.engine.hub.Leave)
	given := to.Give(OwnedGroups)
	l.lap("groups")
	for _, s := range g.servers {
		if s.roles[0] == Peer { // the others are to find who comes after us, and have heard what their clients hold
			_ = s.http.Close()
		}
	}
	if left != nil {
		g.log.Error("handing over: not all of it in order", "error", left)
	}
	err := errors.Join(served, given)
	if err != nil {
		g.endShared(limit) // before this process serves again
	}
	return err
}

// endShared ends what the next process has of its own. That may take its time: with Kafka away, publishes on their way to it do.
func (g *Gateway) endShared(limit context.Context) {
	if err := errors.Join(g.engine.close(limit, streamTime), g.closeOwned(limit)); err != nil {
		g.log.Error("ending after the hand-over: not all of it in order", "error", err)
	}
}

func (g *Gateway) serveNext(to Successor) error {
	next, err := to.Serve()
	if err != nil {
		return err
	}
	g.relay.open(next)
	return nil
}

// endWork ends our clients' streams and waiting polls at once, and lets requests end that are under way; then the groups commit
// and leave.
func (g *Gateway) endWork(limit context.Context, leave func(context.Context) error) error {
	g.engine.stay()
	quiet, cancel := context.WithTimeout(limit, quietTime)
	defer cancel()
	if !g.relay.short.none(quiet) {
		g.log.Warn("handing over: requests that take too long are given up", "requests", g.relay.short.n.Load())
	}
	soon, cancel := context.WithTimeout(limit, streamTime)
	defer cancel()
	g.relay.long.none(soon)
	return errors.Join(bounded(soon, "WebSockets of subscribers", g.engine.sub.Close), bounded(limit, "groups", leave))
}

// closeOwned closes what lies beneath.
func (g *Gateway) closeOwned(limit context.Context) error {
	err := errors.Join(bounded(limit, "plugins", g.chain.end), bounded(limit, "spool", g.closeSpool), bounded(limit, "store", g.store.Close))
	g.endBackground()
	return errors.Join(err, bounded(limit, "background work", func(context.Context) error {
		g.work.Wait()
		return nil
	}), bounded(limit, "meta and registry", g.cluster.close))
}

// succeed says that we could start but for what our predecessor has, and waits for that.
func (g *Gateway) succeed(ctx context.Context) error {
	p := g.deps.Predecessor
	if p == nil {
		return nil
	}
	if err := g.checkOwned(); err != nil {
		return err
	}
	if g.cluster != nil {
		g.cluster.loaded(ctx)
	}
	g.warm(ctx)
	if err := p.Prepared(); err != nil {
		return fmt.Errorf("the process to take over from: %w", err)
	}
	g.log.Info("prepared to take over")
	err := p.Await(ctx, OwnedStore)
	g.taking = newLaps()
	return err
}

// checkOwned looks at what our predecessor has, as far as that can be done without having it.
func (g *Gateway) checkOwned() error {
	if g.cfg.StoreKind() != "embedded" || g.deps.Store != nil {
		return nil
	}
	return embedded.Check(storeDir(&g.cfg))
}

// groupsStore is where groups are joined: not before our predecessor has left them.
func (g *Gateway) groupsStore() store.Subscriber {
	if g.deps.Predecessor == nil {
		return g.store
	}
	return patientSubscriber{g.store, g}
}

// patientSubscriber joins groups when they are ours.
type patientSubscriber struct {
	store.Subscriber
	g *Gateway
}

// Subscribe is store.Subscriber's.
func (s patientSubscriber) Subscribe(ctx context.Context, spec store.Spec) (store.Feed, error) {
	if err := s.g.deps.Predecessor.Await(ctx, OwnedGroups); err != nil {
		return nil, fmt.Errorf("joining group %q: %w: %w", spec.Group, err, errs.Unavailable)
	}
	return s.Subscriber.Subscribe(ctx, spec)
}

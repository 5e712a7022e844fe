package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/kateway/kateway/gateway"
	"github.com/kateway/kateway/internal/handover"
)

// How long the new process may take: to be prepared while the old one goes on, and to serve when it has everything. What the
// old one needs in between is bounded by itself; all together is within 30 s.
const (
	prepareLimit = 15 * time.Second
	serveLimit   = 10 * time.Second
)

// swap is the change to a new process.
type swap struct {
	on     bool // one is under way, or this process has been replaced
	again  bool // and another one was asked for meanwhile
	reload bool // and so was a reload
	cancel context.CancelFunc
	done   chan outcome

	mu    sync.Mutex
	child *handover.Child // until it serves
}

// outcome is how a swap went.
type outcome struct {
	child *handover.Child  // it serves
	back  *gateway.Gateway // or this one, in the place of the one that had handed over already
	err   error            // why there is no child; nobody serves where there is neither and lost is set
	lost  bool
}

// takeOver starts the program anew, as it lies on the disk by now, and hands everything over to it. A second one waits.
func (s *service) takeOver() {
	switch {
	case s.ending:
		s.log.Warn("signal: no new process is started, since this one is stopping")
	case s.swap.on || s.gateway == nil:
		s.log.Info("signal: a new process is to take over, once that which is under way is over")
		s.swap.again = true
	default:
		s.log.Info("signal: a new process takes over", "binary", s.binary)
		s.notify(fmt.Sprintf("%s\nMONOTONIC_USEC=%d\nSTATUS=a new process takes over", daemon.SdNotifyReloading, monotonic()))
		ctx, cancel := context.WithCancel(context.Background())
		s.swap.on, s.swap.cancel = true, cancel
		g := s.gateway
		go func() { s.swap.done <- s.exchange(ctx, g) }()
	}
}

// exchange is the swap: everything until somebody serves, the new process or, where that fails, this one.
func (s *service) exchange(ctx context.Context, g *gateway.Gateway) outcome {
	sockets, err := g.Sockets()
	if err != nil {
		return outcome{err: err}
	}
	child, err := handover.Start(s.command(), sockets)
	if err != nil {
		closeSockets(sockets)
		return outcome{err: fmt.Errorf("starting %s: %w", s.binary, err)}
	}
	s.swap.set(child)
	s.log.Info("the new process was started", "pid", child.PID())
	preparing, cancel := context.WithTimeout(ctx, prepareLimit)
	err = child.Prepared(preparing)
	cancel()
	if err == nil {
		relieving, cancel := context.WithTimeout(ctx, serveLimit)
		g.Relieve(relieving)
		cancel()
		err = ctx.Err() // the last moment to give it up
	}
	if err != nil {
		s.swap.kill()
		closeSockets(sockets)
		return outcome{err: err}
	}
	next := &successor{child: child, log: s.log}
	if err = g.HandOver(next); err == nil {
		s.swap.set(nil)
		closeSockets(sockets)
		return outcome{child: child}
	}
	s.swap.kill()
	if !next.asked && errors.Is(err, gateway.ErrStopped) {
		closeSockets(sockets)
		return outcome{err: err}
	}
	return s.goBack(g, sockets, err)
}

// goBack serves again in this process, with what had been given up already.
func (s *service) goBack(g *gateway.Gateway, sockets []handover.Socket, why error) outcome {
	s.log.Error("the new process does not serve; this one goes on", "error", why)
	cfg := s.cfg
	cfg.ID = g.ID()
	deps := s.deps()
	deps.Successor = true
	keep(&deps, sockets)
	back, err := gateway.New(context.Background(), cfg, deps)
	if err != nil {
		return outcome{err: errors.Join(why, fmt.Errorf("serving again: %w", err)), lost: true}
	}
	g.Pass(back.Handler)
	return outcome{back: back, err: why}
}

// swapped goes on after a swap. The process is over when it was replaced.
func (s *service) swapped(ctx context.Context, o outcome, signals <-chan os.Signal) (code int, over bool) {
	s.swap.cancel()
	if o.child != nil {
		s.replaced(o.child, signals)
		return exitOK, true
	}
	s.swap.on = false
	s.log.Error("no new process has taken over: all stays as it was", "error", o.err)
	s.notify(daemon.SdNotifyReady + "\nSTATUS=the last new process failed: " + strings.ReplaceAll(o.err.Error(), "\n", "; "))
	if o.lost {
		return exitFailed, true
	}
	if o.back != nil {
		s.gateway = o.back
		s.run(ctx, o.back)
	}
	s.rest()
	return 0, false
}

// rest does what was asked for while it could not be done.
func (s *service) rest() {
	reload, again := s.swap.reload, s.swap.again
	s.swap.reload, s.swap.again = false, false
	if reload {
		s.reload()
	}
	if again && !s.ending {
		s.takeOver()
	}
}

// replaced ends this process: what is left of its connections, then itself. What it was asked for meanwhile the new one
// does, and so it is with what it is asked for from now on.
func (s *service) replaced(child *handover.Child, signals <-chan os.Signal) {
	s.notify(fmt.Sprintf("MAINPID=%d\n%s\nSTATUS=serving", child.PID(), daemon.SdNotifyReady))
	s.log.Info("the new process serves", "pid", child.PID())
	if s.ending {
		s.passOn(child, syscall.SIGTERM)
	}
	if s.swap.again {
		s.passOn(child, syscall.SIGUSR2)
	}
	if s.swap.reload {
		s.passOn(child, syscall.SIGHUP)
	}
	drained := make(chan struct{})
	go func() {
		s.runs.Wait()
		close(drained)
	}()
	defer child.Close()
	for {
		select {
		case <-drained:
			return
		case sig := <-signals:
			if end := sig == syscall.SIGTERM || sig == syscall.SIGINT; end && s.told {
				return
			} else if end {
				s.told = true
			}
			s.passOn(child, sig)
		}
	}
}

// passOn has the new process do what a signal asks for. An end is no signal to it: it may have got the same one, and a second
// one would end it at once.
func (s *service) passOn(child *handover.Child, sig os.Signal) {
	var err error
	if sig == syscall.SIGTERM || sig == syscall.SIGINT {
		err = child.Stop()
	} else {
		err = child.Signal(sig)
	}
	if err != nil {
		s.log.Warn("the new process was not told of a signal", "signal", sig.String(), "error", err)
	}
}

// abort gives a swap up that has not come so far that something was given up for it.
func (w *swap) abort() {
	if w.on {
		w.cancel()
	}
}

func (w *swap) set(c *handover.Child) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.child = c
}

// kill ends the new process, unless it serves.
func (w *swap) kill() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.child != nil {
		w.child.Kill()
		w.child = nil
	}
}

// successor is the new process as the gateway sees it.
type successor struct {
	child *handover.Child
	log   *slog.Logger
	asked bool // something was given up for it
}

// Give is gateway.Successor's.
func (n *successor) Give(owned string) error {
	n.asked = true
	return n.child.Give(owned)
}

// Serve is gateway.Successor's.
func (n *successor) Serve() (func(gateway.Role) http.Handler, error) {
	ctx, cancel := context.WithTimeout(context.Background(), serveLimit)
	defer cancel()
	if err := n.child.Serving(ctx); err != nil {
		return nil, err
	}
	return gateway.Lanes(n.child.Dial, n.log), nil
}

func closeSockets(list []handover.Socket) {
	for _, s := range list {
		_ = s.Close()
	}
}

// command is our program with our arguments and our environment, but for what concerns this process alone.
func (s *service) command() *exec.Cmd {
	cmd := exec.Command(s.binary, os.Args[1:]...) //nolint:gosec,noctx // our own program; it outlives this process
	cmd.Args[0] = os.Args[0]
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return slices.Contains([]string{handover.Variable, "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"}, name)
	})
	return cmd
}

// ourBinary is where this program was started from. A link there is not followed: it may lead to a newer version by the
// time it is needed.
func ourBinary() string {
	self, err := os.Executable()
	if err != nil {
		return os.Args[0]
	}
	if !strings.Contains(os.Args[0], string(filepath.Separator)) {
		return self
	}
	named, err := filepath.Abs(os.Args[0])
	if err != nil || !sameFile(named, self) {
		return self
	}
	return named
}

func sameFile(a, b string) bool {
	x, err := os.Stat(a) //nolint:gosec // the name is that of our own program
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

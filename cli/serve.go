package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/kateway/kateway/gateway"
	"github.com/kateway/kateway/internal/handover"
)

// service is the gateway that serves, and what surrounds it.
type service struct {
	cfg      gateway.Config
	again    func() (gateway.Config, error) // reads the configuration anew
	adminKey string
	log      *slog.Logger
	level    slog.LevelVar
	before   *handover.Parent // the process that this one takes over from; nil: none
	binary   string           // where our program is, so that a newer one is found there

	stop    context.CancelFunc
	gateway *gateway.Gateway // the one that serves; nil while it starts
	started chan startup
	ended   chan error // what its Run answered
	runs    sync.WaitGroup
	ending  bool // an end was asked for
	told    bool // by a signal
	swap    swap
}

// startup is how a start went.
type startup struct {
	gateway *gateway.Gateway
	err     error
}

// serve runs the gateway until a signal ends it. again reads the configuration anew.
func serve(cfg gateway.Config, again func() (gateway.Config, error), environ []string, stderr io.Writer) int {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR2)
	defer signal.Stop(signals)
	s := &service{
		cfg: cfg, again: again, adminKey: variable(environ, envAdminKey), binary: ourBinary(),
		started: make(chan startup, 1), ended: make(chan error, 2), swap: swap{done: make(chan outcome, 1)},
	}
	s.log = newLogger(&cfg, &s.level, stderr)
	limitMemory(s.log)
	deps, err := s.inherit(variable(environ, handover.Variable))
	if err != nil {
		s.log.Error("can't start", "error", err)
		return exitFailed
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	s.stop = stop
	go func() {
		g, err := gateway.New(ctx, cfg, deps)
		s.started <- startup{g, err}
	}()
	return s.attend(ctx, signals)
}

// attend does what signals ask for until the process ends: the first that asks for an end stops the gateway in order, the
// second ends the process as it is, which loses nothing that was answered; SIGHUP reads configuration and certificates
// anew, SIGUSR2 has another process take over.
func (s *service) attend(ctx context.Context, signals <-chan os.Signal) int {
	alive := watchdog(s.log)
	defer alive.stop()
	for {
		select {
		case n := <-s.started:
			if n.err != nil {
				s.log.Error("can't start", "error", n.err)
				return exitFailed
			}
			s.gateway = n.gateway
			s.run(ctx, n.gateway)
			s.rest()
		case sig := <-signals:
			s.signal(sig)
		case <-s.stopGiven():
			s.log.Info("the process before this one was told to stop: stopping")
			s.end()
		case err := <-s.ended:
			return s.over(err)
		case o := <-s.swap.done:
			if code, over := s.swapped(ctx, o, signals); over {
				return code
			}
		case <-alive.tick():
			alive.tell(s.notify)
		}
	}
}

// run runs the gateway that serves from now on.
func (s *service) run(ctx context.Context, g *gateway.Gateway) {
	s.runs.Go(func() {
		err := g.Run(ctx)
		if !g.HandedOver() {
			s.ended <- err
		}
	})
}

// over ends the process, once also those gateways have ended that have handed over.
func (s *service) over(err error) int {
	s.swap.abort()
	s.swap.kill()
	s.runs.Wait()
	if err != nil {
		return exitFailed
	}
	return exitOK
}

func (s *service) signal(sig os.Signal) {
	switch sig {
	case syscall.SIGUSR2:
		s.takeOver()
	case syscall.SIGHUP:
		s.reload()
	default:
		if s.told {
			s.log.Error("second signal: ending at once", "signal", sig.String())
			s.swap.kill()
			os.Exit(exitFailed)
		}
		s.log.Info("signal: stopping; a second one ends at once", "signal", sig.String())
		s.told = true
		s.end()
	}
}

// end stops the gateway in order.
func (s *service) end() {
	s.ending = true
	s.swap.abort()
	s.stop()
}

// stopGiven tells that the process before this one was asked for an end, when it was us already who served.
func (s *service) stopGiven() <-chan struct{} {
	if s.before == nil || s.ending {
		return nil
	}
	return s.before.Stopped()
}

func (s *service) notify(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		s.log.Warn("can't tell systemd", "state", state, "error", err)
	}
}

// inherit takes what this process was started with: the sockets of systemd, or of the process before this one.
func (s *service) inherit(before string) (gateway.Deps, error) {
	deps := s.deps()
	if before == "" {
		var err error
		deps.Sockets, err = inherited(s.log)
		return deps, err
	}
	parent, err := handover.Inherit(before)
	if err != nil {
		return deps, err
	}
	s.before = parent
	deps.Predecessor, deps.Successor = parent, true
	keep(&deps, parent.Sockets())
	// The process before this one tells systemd, as soon as it has named us: before, nobody would listen.
	deps.Notify = func(state string) {
		if state != daemon.SdNotifyReady {
			s.notify(state)
		}
	}
	return deps, nil
}

// keep has a gateway go on with the sockets of the one before.
func keep(deps *gateway.Deps, sockets []handover.Socket) {
	deps.Sockets, deps.Kept = map[gateway.Role]net.Listener{}, nil
	for _, k := range sockets {
		if k.Given {
			deps.Sockets[gateway.Role(k.Roles[0])] = k.Listener
		} else {
			deps.Kept = append(deps.Kept, k)
		}
	}
}

func (s *service) deps() gateway.Deps {
	return gateway.Deps{Log: s.log, Level: &s.level, Version: version(), AdminKey: s.adminKey, Notify: s.notify}
}

// inherited are the sockets that systemd opened for us, by the roles that their units name (FileDescriptorName=pub).
func inherited(log *slog.Logger) (map[gateway.Role]net.Listener, error) {
	named, err := activation.ListenersWithNames()
	if err != nil {
		return nil, fmt.Errorf("sockets handed over by systemd: %w", err)
	}
	sockets := map[gateway.Role]net.Listener{}
	for name, list := range named {
		role := gateway.Role(name)
		if !slices.Contains([]gateway.Role{gateway.Pub, gateway.Sub, gateway.Man, gateway.Peer}, role) || len(list) != 1 || list[0] == nil {
			return nil, fmt.Errorf("systemd hands over %d sockets named %q; name one each pub, sub, man or peer (FileDescriptorName=)", len(list), name)
		}
		log.Info("socket handed over", "role", name, "address", list[0].Addr().String())
		sockets[role] = list[0]
	}
	return sockets, nil
}

// reload takes over what can be changed while serving. During a swap that waits: whoever serves then does it.
func (s *service) reload() {
	if s.gateway == nil {
		return // it reads the newest anyway
	}
	if s.swap.on {
		s.swap.reload = true
		return
	}
	cfg, err := s.again()
	if err == nil {
		err = s.gateway.Reload(cfg)
	}
	if err != nil {
		s.log.Error("reload: all stays as it was", "error", err)
	}
}

// newLogger logs to stderr, as text for people and as JSON for machines.
func newLogger(cfg *gateway.Config, level *slog.LevelVar, stderr io.Writer) *slog.Logger {
	l, _ := gateway.ParseLevel(cfg.LogLevel) // validated
	level.Set(l)
	format := cfg.LogFormat
	if format == "" {
		format = "json"
		if isTerminal(stderr) {
			format = "text"
		}
	}
	return gateway.NewLogger(stderr, level, format)
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// limitMemory tells the garbage collector of the control group's limit, so that it works harder before the kernel kills.
// GOMEMLIMIT in the environment wins.
func limitMemory(log *slog.Logger) {
	limit, err := memlimit.Set()
	if err != nil {
		log.Debug("no memory limit taken from the control group", "error", err)
		return
	}
	log.Debug("memory limit", "bytes", limit)
}

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
	"syscall"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/kateway/kateway/gateway"
)

// serve runs the gateway until a signal ends it. again reads the configuration anew.
func serve(cfg gateway.Config, again func() (gateway.Config, error), adminKey string, stderr io.Writer) int {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)

	var level slog.LevelVar
	log := newLogger(&cfg, &level, stderr)
	limitMemory(log)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	started := make(chan *gateway.Gateway, 1)
	go attend(signals, stop, started, again, log)

	sockets, err := inherited(log)
	if err != nil {
		log.Error("can't start", "error", err)
		return exitFailed
	}
	g, err := gateway.New(ctx, cfg, gateway.Deps{
		Log: log, Level: &level, Version: version(), Sockets: sockets, AdminKey: adminKey,
		Notify: func(state string) {
			if _, err := daemon.SdNotify(false, state); err != nil {
				log.Warn("can't tell systemd", "state", state, "error", err)
			}
		},
	})
	if err != nil {
		log.Error("can't start", "error", err)
		return exitFailed
	}
	started <- g
	if err := g.Run(ctx); err != nil {
		return exitFailed
	}
	return exitOK
}

// attend follows signals until the process ends: the first that asks for an end stops the gateway in order, the second
// ends the process as it is, which loses nothing that was answered; SIGHUP reads configuration and certificates anew.
func attend(signals <-chan os.Signal, stop context.CancelFunc, started <-chan *gateway.Gateway, again func() (gateway.Config, error), log *slog.Logger) {
	var g *gateway.Gateway
	stopping := false
	for {
		select {
		case g = <-started:
		case s := <-signals:
			switch {
			case s == syscall.SIGHUP:
				reload(g, again, log)
			case stopping:
				log.Error("second signal: ending at once", "signal", s.String())
				os.Exit(exitFailed)
			default:
				log.Info("signal: stopping; a second one ends at once", "signal", s.String())
				stopping = true
				stop()
			}
		}
	}
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

func reload(g *gateway.Gateway, again func() (gateway.Config, error), log *slog.Logger) {
	if g == nil {
		return // it reads the newest anyway
	}
	cfg, err := again()
	if err == nil {
		err = g.Reload(cfg)
	}
	if err != nil {
		log.Error("reload: all stays as it was", "error", err)
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

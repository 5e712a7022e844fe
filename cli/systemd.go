package cli

import (
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// dog is systemd's watchdog: it ends a process that does not say often enough that it goes on.
type dog struct{ ticker *time.Ticker }

// watchdog is told from the loop that attends to signals, so that it learns when that one hangs.
func watchdog(log *slog.Logger) *dog {
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("the watchdog's time can't be read", "error", err)
	}
	if err != nil || every <= 0 {
		return new(dog)
	}
	return &dog{time.NewTicker(every / 2)}
}

// tick is when the watchdog is to be told.
func (d *dog) tick() <-chan time.Time {
	if d.ticker == nil {
		return nil
	}
	return d.ticker.C
}

func (d *dog) tell(notify func(string)) { notify(daemon.SdNotifyWatchdog) }

func (d *dog) stop() {
	if d.ticker != nil {
		d.ticker.Stop()
	}
}

// monotonic is the time that systemd compares notifications by, in microseconds.
func monotonic() int64 {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) != nil {
		return 0
	}
	return t.Nano() / 1000
}

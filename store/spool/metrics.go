package spool

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics count what went through the spool; what is in it is asked for when somebody looks.
type metrics struct {
	spooled, failed, aside, refused *prometheus.CounterVec
	drained                         prometheus.Counter
}

func (m *metrics) register(s *Spool) {
	vec := func(name, label, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kateway_spool_" + name, Help: help}, []string{label})
	}
	m.spooled = vec("spooled_total", "reason", "Messages put into the spool: by the error code of the store, behind for those that queued behind others, requeued for those that were set aside.")
	m.failed = vec("drain_failures_total", "code", "Attempts to drain a lane of the spool that failed, by error code.")
	m.aside = vec("aside_total", "code", "Messages that the store refused for good while they were drained, and that were set aside, by error code.")
	m.refused = vec("refused_total", "code", "Messages that could not be spooled, by error code: unavailable where the spool was full or did not answer.")
	m.drained = prometheus.NewCounter(prometheus.CounterOpts{Name: "kateway_spool_drained_total", Help: "Messages given to the store from the spool."})
	if s.cfg.Metrics == nil {
		return
	}
	gauge := func(name, help string, f func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "kateway_spool_" + name, Help: help}, f)
	}
	s.cfg.Metrics.MustRegister(m.spooled, m.failed, m.aside, m.refused, m.drained,
		gauge("bytes", "Bytes in the spool, messages that were set aside included.", func() float64 { return float64(s.bytes.Load()) }),
		gauge("max_bytes", "Bytes that the spool may hold.", func() float64 { return float64(s.cfg.MaxBytes) }),
		gauge("messages", "Messages that wait in the spool.", func() float64 { return float64(s.SpoolStatus().Messages) }),
		gauge("aside_messages", "Messages that were set aside and that somebody has to deal with.", func() float64 { return float64(s.asides.Load()) }),
		gauge("oldest_seconds", "Age of the oldest message that waits in the spool.", s.oldestSeconds),
		gauge("late", "1 while a message waits for longer than --spool-max-age.", func() float64 {
			if s.SpoolStatus().Late {
				return 1
			}
			return 0
		}),
	)
}

func (s *Spool) oldestSeconds() float64 {
	if oldest := s.SpoolStatus().Oldest; !oldest.IsZero() {
		return max(s.cfg.Now().Sub(oldest), time.Duration(0)).Seconds()
	}
	return 0
}

package broadcast

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	steps prometheus.Counter
}

func newMetrics(h *Hub, r prometheus.Registerer) *metrics {
	gauge := func(name, help string, value func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "kateway_broadcast_" + name, Help: help}, func() float64 {
			h.mu.Lock()
			defer h.mu.Unlock()
			return float64(value())
		})
	}
	m := &metrics{steps: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "kateway_broadcast_store_reads_total", Help: "Times that a reader which was behind read the store itself.",
	})}
	r.MustRegister(m.steps,
		gauge("topics", "Topics that are read without a group, and were lately.", func() int { return len(h.taps) }),
		gauge("readers", "Readers without a group.", func() int { return len(h.readers) }),
		gauge("bytes", "Bytes of the messages that are kept for readers without a group.", h.bytes))
	return m
}

// bytes is what all rings keep. Caller holds mu.
func (h *Hub) bytes() (sum int) {
	for _, t := range h.taps {
		select {
		case <-t.ready:
			if t.ring != nil {
				sum += t.ring.size()
			}
		default:
		}
	}
	return sum
}

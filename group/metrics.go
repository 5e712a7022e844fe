package group

import (
	"cmp"

	"github.com/prometheus/client_golang/prometheus"
)

// totals are what is counted over the lives of groups.
type totals struct {
	counters
	retried, dead, unmoved uint64
}

func (t *totals) add(o totals) {
	t.counters.add(o.counters)
	t.retried += o.retried
	t.dead += o.dead
	t.unmoved += o.unmoved
}

func (c *counters) add(o counters) {
	c.delivered += o.delivered
	c.redelivered += o.redelivered
	c.expired += o.expired
	c.acked += o.acked
	c.nacked += o.nacked
	c.filtered += o.filtered
	c.returned += o.returned
}

func (g *group) totals() totals {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.totalsLocked()
}

func (g *group) totalsLocked() totals {
	m := &g.mover.count
	return totals{g.ledger.count, m.retry.Load(), m.dead.Load(), m.failed.Load()}
}

var (
	descGroups      = desc("groups", "Groups on topics that this gateway is a member of.")
	descSessions    = desc("group_sessions", "Clients of groups: waiting polls and open streams.")
	descInFlight    = desc("group_messages_in_flight", "Messages delivered and not yet settled.")
	descBuffered    = desc("group_buffered_bytes", "Bytes of the messages that groups keep in memory.")
	descDelivered   = desc("group_delivered_total", "Deliveries to clients, repeated ones among them.")
	descRedelivered = desc("group_released_total", "Messages that were made due again: lease ended, client left, nack.")
	descExpired     = desc("group_expired_total", "Messages whose lease ended before they were settled.")
	descAcked       = desc("group_acked_total", "Acks taken, repeated ones among them.")
	descNacked      = desc("group_nacked_total", "Messages nacked.")
	descFiltered    = desc("group_filtered_total", "Messages that were passed over, since the group's tags or filter do not want them.")
	descReturned    = desc("group_returned_total", "Deliveries that never reached their client and do not count.")
	descRetried     = desc("group_moved_to_retry_total", "Messages moved to retry queues.")
	descDead        = desc("group_dead_total", "Messages moved to dead queues.")
	descUnmoved     = desc("group_move_failures_total", "Messages that could not be moved to a retry or dead queue at a try; they are tried again.")
	descModes       = prometheus.NewDesc("kateway_group_modes", "Groups on topics that this gateway is a member of, by mode; none: nobody subscribes now.", []string{"mode"}, nil)
)

func desc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("kateway_"+name, help, nil, nil)
}

// Describe is prometheus.Collector's.
func (h *Hub) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(h, ch) }

// Collect is prometheus.Collector's: the ledgers count, here they are added up.
func (h *Hub) Collect(ch chan<- prometheus.Metric) {
	h.mu.Lock()
	total, slots := h.past, h.joined()
	h.mu.Unlock()
	inFlight, bytes := 0, 0
	modes := map[Mode]int{Fifo: 0, Queue: 0, ByKey: 0}
	for _, s := range slots {
		s.g.mu.Lock()
		total.add(s.g.totalsLocked())
		modes[s.g.ledger.settings.Mode]++
		for _, w := range s.g.ledger.windows {
			inFlight += w.leased
			bytes += w.bytes
		}
		s.g.mu.Unlock()
	}
	gauge := func(d *prometheus.Desc, v int) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v))
	}
	counter := func(d *prometheus.Desc, v uint64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v))
	}
	gauge(descGroups, len(slots))
	gauge(descSessions, h.Sessions())
	gauge(descInFlight, inFlight)
	gauge(descBuffered, bytes)
	counter(descDelivered, total.delivered)
	counter(descRedelivered, total.redelivered)
	counter(descExpired, total.expired)
	counter(descAcked, total.acked)
	counter(descNacked, total.nacked)
	counter(descFiltered, total.filtered)
	counter(descReturned, total.returned)
	counter(descRetried, total.retried)
	counter(descDead, total.dead)
	counter(descUnmoved, total.unmoved)
	for mode, n := range modes {
		ch <- prometheus.MustNewConstMetric(descModes, prometheus.GaugeValue, float64(n), cmp.Or(string(mode), "none"))
	}
}

package sub

import (
	"fmt"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kateway/kateway/meta"
)

func TestTopicsBeyondTheCapShareASeries(t *testing.T) {
	r := prometheus.NewRegistry()
	m := newMetrics(r)
	topic := func(i int) meta.Topic { return meta.Topic{App: "a", Name: fmt.Sprint("t", i), Ver: "v1"} }
	for i := range maxTopicLabels + 50 {
		m.messages.of(topic(i)).Inc()
		m.messages.of(topic(i)).Inc()
	}
	for series, want := range map[string]float64{"a/t0/v1": 2, "a/t999/v1": 2, "other": 100} {
		if got := metric(t, r, fmt.Sprintf("kateway_sub_messages_total{topic=%q}", series)); got != want {
			t.Errorf("%s: %v, want %v", series, got, want)
		}
	}
}

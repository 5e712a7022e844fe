package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
	"github.com/kateway/kateway/store/mem"
)

// broken is a store that takes no publish while it is told so.
type broken struct {
	*mem.Store
	off   atomic.Bool
	asked atomic.Int64
}

func (b *broken) Publish(ctx context.Context, topic string, ack store.Ack, msgs ...*store.Message) error {
	if b.off.Load() {
		b.asked.Add(1)
		return errs.Unavailable
	}
	return b.Store.Publish(ctx, topic, ack, msgs...)
}

// A store that fails is not asked any more: who publishes is told at once, the status tells whom it concerns, and when the
// store works again so do publishes.
func TestCircuit(t *testing.T) {
	s := &broken{Store: mem.New()}
	g := startOn(t, s, nil)
	publish := func() (*http.Response, string) { return g.ask(t, Pub, "POST", "/v1/msgs/orders/v1", withBody("x")) }
	if resp, body := publish(); resp.StatusCode != http.StatusCreated {
		t.Fatalf("%s %s", resp.Status, body)
	}
	s.off.Store(true)
	for range 5 {
		resp, body := publish()
		checkCode(t, resp, body, http.StatusServiceUnavailable, "unavailable")
	}
	resp, body := publish()
	checkCode(t, resp, body, http.StatusServiceUnavailable, "circuit_open")
	if resp.Header.Get("Retry-After") != "1" || s.asked.Load() != 5 {
		t.Errorf("Retry-After %q, the store was asked %d times", resp.Header.Get("Retry-After"), s.asked.Load())
	}
	var status struct{ Circuits []map[string]any }
	if _, body := g.ask(t, Man, "GET", "/v1/status", nil); json.Unmarshal([]byte(body), &status) != nil || len(status.Circuits) != 1 ||
		status.Circuits[0]["cluster"] != "default" || status.Circuits[0]["topic"] != "default.orders.v1" {
		t.Errorf("status %s", body)
	}
	if _, body := g.ask(t, Man, "GET", "/metrics", nil); !strings.Contains(body, `kateway_circuits_open{of="topic"} 1`) || !strings.Contains(body, `kateway_circuit_refused_total{of="topic"} 1`) {
		t.Error("not counted")
	}
	s.off.Store(false)
	await(t, "publishes to be taken again", func() bool { resp, _ := publish(); return resp.StatusCode == http.StatusCreated })
}

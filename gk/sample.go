package gk

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// sample is how things stood at a moment.
type sample struct {
	at       time.Time
	gateways []instance
	uses     []use
	silent   []string           // gateways that did not tell of their clients
	metrics  map[string]float64 // of the gateway that we ask, summed over their labels; nil where it does not tell
}

// counted are the metrics that top looks at.
var counted = []string{ // read only
	"kateway_publish_messages_total", "kateway_publish_bytes_total", "kateway_publish_failures_total",
	"kateway_sub_messages_total", "kateway_sub_streams", "kateway_http_connections",
}

// sample looks once. Of clients, it looks at the first thousand.
func (t *tool) sample(ctx context.Context) (*sample, error) {
	s := &sample{at: time.Now()}
	var err error
	if s.gateways, err = t.instances(ctx); err != nil {
		return nil, err
	}
	if s.uses, s.silent, err = t.uses(ctx); err != nil {
		return nil, err
	}
	a, err := t.man.get(ctx, "/metrics", nil)
	if err != nil {
		return nil, err
	}
	s.metrics, err = sums(a.body, counted)
	return s, err
}

// uses are the clients now, the busiest first, a page of them at most; silent are the gateways that did not tell of theirs.
func (t *tool) uses(ctx context.Context) (list []use, silent []string, err error) {
	a, err := t.man.get(ctx, "/v1/clients", query("sort", "messages", "limit", pageSize))
	if err != nil {
		return nil, nil, err
	}
	var p struct {
		Items       []use    `json:"items"`
		Unreachable []string `json:"unreachable"`
	}
	return p.Items, p.Unreachable, a.into(&p)
}

// sums adds the series of each of these metrics up.
func sums(text []byte, names []string) (map[string]float64, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("reading /metrics: %w", err)
	}
	out := map[string]float64{}
	for _, name := range names {
		for _, m := range families[name].GetMetric() {
			out[name] += valueOf(m)
		}
	}
	return out, nil
}

func valueOf(m *dto.Metric) float64 {
	return m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetUntyped().GetValue()
}

// frame is what happened between two samples. Rates are per second.
type frame struct {
	At          time.Time      `json:"at"`
	Published   float64        `json:"published"` // messages, and so below, of the gateway that we ask
	Bytes       float64        `json:"bytes"`
	Failed      float64        `json:"failed"`
	Delivered   float64        `json:"delivered"`
	Streams     float64        `json:"streams"`     // now
	Connections float64        `json:"connections"` // now
	Gateways    []frameGateway `json:"gateways"`
	Clients     []frameUse     `json:"clients"`
	Unreachable []string       `json:"unreachable,omitempty"`
}

type frameGateway struct {
	ID        string  `json:"id"`
	Version   string  `json:"version"`
	Host      string  `json:"host"`
	Published float64 `json:"published"` // as it tells of itself
	Streams   int     `json:"streams"`
}

type frameUse struct {
	Gateway  string  `json:"gateway"`
	Kind     string  `json:"kind"`
	App      string  `json:"app"`
	Topic    string  `json:"topic"`
	Group    string  `json:"group"`
	Remote   string  `json:"remote"`
	Messages float64 `json:"messages"`
	Bytes    float64 `json:"bytes"`
	Total    int64   `json:"total"` // messages since it began
}

// useKey tells uses apart.
type useKey struct {
	gateway, kind, app, topic, group, remote string
	since                                    int64
}

func (u *use) id() useKey {
	return useKey{u.Gateway, u.Kind, u.App, u.topic(), u.Group, u.Remote, u.Since.UnixNano()}
}

// between makes a frame of two samples, with the busiest clients first, at most rows of them.
func between(before, now *sample, rows int) frame {
	seconds := max(now.at.Sub(before.at).Seconds(), 1e-6)
	rate := func(name string) float64 { return max(now.metrics[name]-before.metrics[name], 0) / seconds }
	f := frame{
		At: now.at, Published: rate("kateway_publish_messages_total"), Bytes: rate("kateway_publish_bytes_total"),
		Failed: rate("kateway_publish_failures_total"), Delivered: rate("kateway_sub_messages_total"),
		Streams: now.metrics["kateway_sub_streams"], Connections: now.metrics["kateway_http_connections"],
		Gateways: []frameGateway{}, Clients: []frameUse{}, Unreachable: now.silent,
	}
	for _, g := range now.gateways {
		f.Gateways = append(f.Gateways, frameGateway{g.ID, g.Version, g.Host, g.Load.PublishPerSecond, g.Load.Streams})
	}
	old := map[useKey]use{}
	for _, u := range before.uses {
		old[u.id()] = u
	}
	for _, u := range now.uses {
		was := old[u.id()] // the zero value for a new one: all of it is of now
		f.Clients = append(f.Clients, frameUse{
			u.Gateway, u.Kind, u.App, u.topic(), u.Group, u.Remote,
			float64(max(u.Messages-was.Messages, 0)) / seconds, float64(max(u.Bytes-was.Bytes, 0)) / seconds, u.Messages,
		})
	}
	slices.SortStableFunc(f.Clients, func(a, b frameUse) int { return cmp.Compare(b.Messages, a.Messages) })
	f.Clients = f.Clients[:min(len(f.Clients), rows)]
	return f
}

// show writes the frame as tables.
func (f *frame) show(o *output) error {
	o.write("%s  published %.1f/s, %.2f MB/s, failed %.1f/s; delivered %.1f/s; %.0f streams, %.0f connections\n\n",
		f.At.Format(time.TimeOnly), f.Published, f.Bytes/1e6, f.Failed, f.Delivered, f.Streams, f.Connections)
	o.begin("GATEWAY", "VERSION", "HOST", "PUBLISHES/S", "STREAMS")
	for _, g := range f.Gateways {
		o.row(g.ID, g.Version, g.Host, g.Published, g.Streams)
	}
	for _, id := range f.Unreachable {
		o.row(id, "its clients are not known: it did not answer")
	}
	if err := o.gap(); err != nil {
		return err
	}
	o.begin("KIND", "APP", "TOPIC", "GROUP", "REMOTE", "GATEWAY", "MESSAGES/S", "KB/S", "MESSAGES")
	for _, u := range f.Clients {
		o.row(u.Kind, u.App, u.Topic, u.Group, u.Remote, u.Gateway, u.Messages, u.Bytes/1e3, u.Total)
	}
	return o.end()
}

// lineOf is the frame as one line of JSON.
func (f *frame) lineOf() ([]byte, error) {
	b, err := json.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("writing JSON: %w", err)
	}
	return append(b, '\n'), nil
}

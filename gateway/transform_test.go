package gateway_test

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/kateway/kateway/gateway"
	"github.com/kateway/kateway/plugins"
	"github.com/kateway/kateway/store/mem"
)

// TestTransformAndSchemaTogether: a message that a rule sends elsewhere is what the schema there says, and is changed again
// for who reads it.
func TestTransformAndSchemaTogether(t *testing.T) {
	cfg := gateway.Default()
	cfg.Pub, cfg.Man, cfg.Data, cfg.Plugins = "127.0.0.1:0", "127.0.0.1:0", t.TempDir(), []string{"transform", "schema"}
	cfg.DrainDelay, cfg.DrainGrace = 0, 0
	cfg.PluginOptions = map[string]plugins.Options{"transform": plugins.ParseOptions(`
rules:
  - match: {topic: orders, direction: in}
    when: value.eu
    do: [{route: {topic: orders-eu}}]
  - match: {direction: out}
    do: [{redact: {path: /card}}]
`)}
	g, err := gateway.New(t.Context(), cfg, gateway.Deps{Log: slog.New(slog.DiscardHandler), Level: new(slog.LevelVar), Version: "test", Store: mem.New()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	t.Cleanup(func() {
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	header := http.Header{"Content-Type": {"application/json"}}
	ask := func(status int, method string, role gateway.Role, path, body, want string) {
		t.Helper()
		r, b := callOpenAPI(t, method, "http://"+g.Addr(role)+path, body, header)
		if r.StatusCode != status || !strings.Contains(string(b), want) {
			t.Errorf("%s %s: %d %s, want %d %s", method, path, r.StatusCode, b, status, want)
		}
	}
	ask(201, http.MethodPost, "man", "/v1/topics", `{"app":"default","topic":"orders-eu","ver":"v1","partitions":1}`, "")
	ask(201, http.MethodPut, "man", "/v1/topics/default/orders-eu/v1/schema", `{"type":"json","text":"{\"required\":[\"vat\"]}"}`, "")
	ask(201, http.MethodPost, "pub", "/v1/msgs/orders/v1", `{"eu":false,"card":"1234"}`, `"offset":0}`)
	ask(422, http.MethodPost, "pub", "/v1/msgs/orders/v1", `{"eu":true,"card":"1234"}`, `"path":"/vat"`)
	ask(201, http.MethodPost, "pub", "/v1/msgs/orders/v1", `{"eu":true,"vat":"X","card":"1234"}`, `"topic":"default/orders-eu/v1"`)
	header = nil
	for _, read := range []string{"group=g", "cursor=&reset=oldest"} {
		ask(200, http.MethodGet, "sub", "/v1/msgs/default/orders-eu/v1?wait=10s&"+read, "", `{"eu":true,"vat":"X","card":"[redacted]"}`)
	}
}

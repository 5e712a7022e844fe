package gateway

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/kateway/kateway/store"
	"github.com/kateway/kateway/store/mem"
)

// Published by one client, read by another that was there before, on the embedded store, over every protocol; and there
// is more to read after a restart.
func TestPublishAndStream(t *testing.T) {
	certFile, keyFile := certFiles(t)
	writeCert(t, certFile, keyFile, "localhost")
	data := t.TempDir()
	for name, c := range map[string]struct {
		secure bool
		major  int
	}{"HTTP/1.1": {false, 1}, "h2c": {false, 2}, "HTTPS/1.1": {true, 1}, "h2": {true, 2}} {
		t.Run(name, func(t *testing.T) {
			g := startOn(t, nil, func(cfg *Config) {
				cfg.Data = data
				if c.secure {
					cfg.TLSCert, cfg.TLSKey = certFile, keyFile
				}
			})
			url := "http://" + g.Addr(Pub)
			if c.secure {
				url = "https://" + g.Addr(Pub)
			}
			tr := transport(c.secure, c.major)
			defer tr.CloseIdleConnections()
			topic := strings.ToLower(strings.NewReplacer("/", "", ".", "").Replace(name))
			stream := openTopic(t, tr, url, topic)
			defer stream.Close()
			resp := post(t, tr, url+"/v1/msgs/"+topic+"/v1", "hello")
			if resp.StatusCode != http.StatusCreated || resp.ProtoMajor != c.major || resp.Header.Get("X-Offset") != "0" {
				t.Errorf("%s %s %v", resp.Proto, resp.Status, resp.Header)
			}
			line, err := bufio.NewReader(stream).ReadString('\n')
			var m struct {
				Value  string
				Offset int
			}
			if err != nil || json.Unmarshal([]byte(line), &m) != nil || m.Value != "hello" || m.Offset != 0 {
				t.Errorf("%q, %v", line, err)
			}
		})
	}
	t.Run("after a restart", func(t *testing.T) {
		g := startOn(t, nil, func(cfg *Config) { cfg.Data = data })
		if resp, body := g.ask(t, Sub, "GET", "/v1/msgs/default/h2c/v1?group=other", nil); resp.StatusCode != 200 || body != "hello" {
			t.Errorf("%s %s", resp.Status, body)
		}
		if resp, body := g.ask(t, Sub, "GET", "/v1/msgs/default/h2c/v1?group=g&wait=1ms", nil); resp.StatusCode != 204 {
			t.Errorf("the group gets again what it had: %s %s", resp.Status, body)
		}
	})
}

// transport speaks one version of HTTP only.
func transport(secure bool, major int) *http.Transport {
	p := new(http.Protocols)
	switch {
	case major == 1:
		p.SetHTTP1(true)
	case secure:
		p.SetHTTP2(true)
	default:
		p.SetUnencryptedHTTP2(true)
	}
	return &http.Transport{Protocols: p, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
}

func openTopic(t *testing.T, tr *http.Transport, url, topic string) io.ReadCloser {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/v1/stream/default/"+topic+"/v1?group=g&limit=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
	return resp.Body
}

func post(t *testing.T, tr *http.Transport, url, body string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return resp
}

// A panic is that request's matter only.
func TestPanicIsContained(t *testing.T) {
	s := &panicking{Store: mem.New()}
	g := startOn(t, s, nil)
	resp, body := g.ask(t, Pub, "POST", "/v1/msgs/orders/v1", withBody("x"))
	checkCode(t, resp, body, http.StatusInternalServerError, "internal")
	if strings.Contains(body, "ouch") || !strings.Contains(g.logged.String(), "ouch") {
		t.Errorf("answered %s, logged %s", body, g.logged)
	}
	if resp, _ := g.ask(t, Pub, "GET", "/alive", nil); resp.StatusCode != 200 {
		t.Errorf("%s", resp.Status)
	}
	if _, body := g.ask(t, Man, "GET", "/metrics", nil); !strings.Contains(body, `kateway_http_requests_total{code="500",role="pub",route="POST /v1/msgs/:topic/:ver"} 1`) {
		t.Error("not counted")
	}
}

// panicking is a store with a fault of ours in it.
type panicking struct{ *mem.Store }

func (*panicking) Publish(context.Context, string, store.Ack, ...*store.Message) error { panic("ouch") }

func TestReload(t *testing.T) {
	g := start(t, nil)
	cfg := g.cfg
	cfg.LogLevel, cfg.MaxMessage, cfg.Partitions = "error", 7, 9
	if err := g.Reload(cfg); err != nil {
		t.Fatal(err)
	}
	if g.level.Level() != slog.LevelError {
		t.Errorf("level %v", g.level.Level())
	}
	g.level.Set(slog.LevelDebug)
	if err := g.Reload(cfg); err != nil {
		t.Fatal(err)
	}
	if log := g.logged.String(); !strings.Contains(log, "--max-message, --partitions") {
		t.Errorf("what needs a restart is not told: %s", log)
	}
	cfg.LogLevel = "loud"
	if err := g.Reload(cfg); err == nil {
		t.Error("a faulty configuration is taken")
	}
}

func TestStartThatFails(t *testing.T) {
	taken := start(t, nil)
	for name, c := range map[string]struct {
		change func(*testing.T, *Config)
		want   string
	}{
		"faulty":         {func(_ *testing.T, c *Config) { c.LogLevel = "loud" }, "log-level"},
		"address in use": {func(_ *testing.T, c *Config) { c.Man = taken.Addr(Pub) }, taken.Addr(Pub)},
		"no certificate": {func(_ *testing.T, c *Config) { c.TLSCert, c.TLSKey = "/nonexistent", "/nonexistent" }, "/nonexistent"},
		"data is no dir": {func(t *testing.T, c *Config) { c.Data = fileAt(t) }, "data directory"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig(t)
			c.change(t, &cfg)
			g, err := New(t.Context(), cfg, Deps{Log: slog.New(slog.DiscardHandler)})
			if err == nil || g != nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
		})
	}
}

func fileAt(t *testing.T) string {
	t.Helper()
	name := t.TempDir() + "/file"
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestSecondProcessOnTheSameData(t *testing.T) {
	first := startOn(t, nil, nil)
	cfg := testConfig(t)
	cfg.Data = first.cfg.Data
	if _, err := New(t.Context(), cfg, Deps{Log: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), cfg.Data) {
		t.Errorf("%v", err)
	}
	if resp := post(t, first.client.Transport.(*http.Transport), first.url(Pub)+"/v1/msgs/orders/v1", "x"); resp.StatusCode != http.StatusCreated {
		t.Errorf("the first is disturbed: %s", resp.Status)
	}
}

// What a client got before the stop it may still settle while the stop waits for it.
func TestSettleDuringAStop(t *testing.T) {
	g := start(t, func(c *Config) { c.DrainDelay, c.DrainGrace, c.DrainLimit = 0, 3*time.Second, 10*time.Second })
	g.ask(t, Pub, "POST", "/v1/msgs/orders/v1", withBody("x"))
	resp, _ := g.ask(t, Sub, "GET", "/v1/msgs/default/orders/v1?group=g&ack=explicit&lease=1m", nil)
	receipt := resp.Header.Get("X-Receipt")
	stopped := make(chan error, 1)
	go func() { stopped <- g.stop() }()
	await(t, "drain", func() bool { return strings.Contains(g.logged.String(), `"msg":"listeners closed"`) })
	resp, body := g.ask(t, Sub, "PUT", "/v1/msgs/default/orders/v1?group=g&op=ack", func(r *http.Request) { r.Header.Set("X-Receipt", receipt) })
	if resp.StatusCode != http.StatusOK {
		t.Errorf("%s %s", resp.Status, body)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

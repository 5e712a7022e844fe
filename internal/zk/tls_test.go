package zk

import (
	"bytes"
	"crypto/tls"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kateway/kateway/internal/links"
	"github.com/kateway/kateway/internal/testkit"
)

// lines is a log that is read while it is written.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func trusting(t *testing.T, files links.Files) func() *tls.Config {
	t.Helper()
	l, err := links.LoadTLS(files, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return l.Config
}

// The real ZooKeeper behind TLS that wants certificates of its clients.
func TestOverTLS(t *testing.T) {
	a, server := testkit.NewAuthority(t), testkit.ZooKeeper(t)
	certFile, keyFile := a.For("gateway", time.Time{})
	front := testkit.TLSFront(t, a.Server("127.0.0.1", time.Time{}, true), server)
	c := open(t, Config{Servers: []string{front}, Credentials: "u:p", TLS: trusting(t, links.Files{CA: a.File, Cert: certFile, Key: keyFile})})
	connected(t, c)
	wanted(t, c.Create(t.Context(), "/secured", []byte("1")), nil)
	data, _, err := c.Get(t.Context(), "/secured")
	if string(data) != "1" || err != nil {
		t.Errorf("%q, %v", data, err)
	}
}

// A server that can't prove who it is, or does not take us, is not spoken to, and the log says why, once.
func TestRefusedOverTLS(t *testing.T) {
	a, b, server := testkit.NewAuthority(t), testkit.NewAuthority(t), testkit.ZooKeeper(t)
	stranger := links.Files{CA: a.File}
	stranger.Cert, stranger.Key = b.For("gateway", time.Time{})
	for name, c := range map[string]struct {
		server *tls.Config // nil: no TLS at all
		files  links.Files
		why    string
	}{
		"another authority":              {a.Server("127.0.0.1", time.Time{}, false), links.Files{CA: b.File}, "unknown authority"},
		"another host":                   {a.Server("127.0.0.2", time.Time{}, false), links.Files{CA: a.File}, "not 127.0.0.1"},
		"expired":                        {a.Server("127.0.0.1", time.Now().Add(-time.Minute), false), links.Files{CA: a.File}, "expired"},
		"no certificate of ours":         {a.Server("127.0.0.1", time.Time{}, true), links.Files{CA: a.File}, "certificate required"},
		"a certificate of somebody else": {a.Server("127.0.0.1", time.Time{}, true), stranger, "tls: "},
		"in clear text":                  {nil, links.Files{CA: a.File}, "TLS: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr := server
			if c.server != nil {
				addr = testkit.TLSFront(t, c.server, server)
			}
			var log lines
			client := open(t, Config{Servers: []string{addr}, TLS: trusting(t, c.files), Log: slog.New(slog.NewTextHandler(&log, nil))})
			limit := time.After(20 * time.Second)
			for !strings.Contains(log.text(), c.why) {
				state, changed := client.State()
				if state.Connected {
					t.Fatal("it is connected")
				}
				select {
				case <-changed:
				case <-limit:
					t.Fatalf("the log does not say %q:\n%s", c.why, log.text())
				case <-time.After(10 * time.Millisecond):
				}
			}
			if n := strings.Count(log.text(), "can't be reached"); n != 1 {
				t.Errorf("%d lines of it:\n%s", n, log.text())
			}
		})
	}
}

package peer

import (
	"bytes"
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/julienschmidt/httprouter"
	"go.uber.org/goleak"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/httpx"
	"github.com/kateway/kateway/internal/online"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// secret makes a secret out of a word.
func secret(word string) []byte { return bytes.Repeat([]byte(word+"."), 1+MinSecret/len(word)) }

func secrets(words ...string) [][]byte {
	var list [][]byte
	for _, w := range words {
		list = append(list, secret(w))
	}
	return list
}

func always(list [][]byte) func() [][]byte { return func() [][]byte { return list } }

// fakeNode answers what it was given and remembers what it was asked.
type fakeNode struct {
	clients []online.Client
	info    group.Info
	err     error
	hang    bool // until the request ends

	mu    sync.Mutex
	asked []string
}

func (n *fakeNode) note(ctx context.Context, what string) error {
	n.mu.Lock()
	n.asked = append(n.asked, what)
	n.mu.Unlock()
	if n.hang {
		<-ctx.Done()
		return ctx.Err()
	}
	return n.err
}

func (n *fakeNode) Clients(ctx context.Context) ([]online.Client, error) {
	return n.clients, n.note(ctx, "clients")
}

func (n *fakeNode) Group(ctx context.Context, key group.Key) (group.Info, error) {
	return n.info, n.note(ctx, "group "+key.Topic+" "+key.Group)
}

func (n *fakeNode) Suspend(ctx context.Context, key group.Key, hold time.Duration) error {
	return n.note(ctx, "suspend "+key.Topic+" "+key.Group+" "+hold.String())
}

func (n *fakeNode) Resume(ctx context.Context, key group.Key) error {
	return n.note(ctx, "resume "+key.Topic+" "+key.Group)
}

func (n *fakeNode) Refresh(ctx context.Context) error { return n.note(ctx, "refresh") }

func (n *fakeNode) Requeued(ctx context.Context, key group.Key) error {
	return n.note(ctx, "requeued "+key.Topic+" "+key.Group)
}

func (n *fakeNode) last(t *testing.T) string {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.asked) == 0 {
		t.Fatal("it was not asked anything")
	}
	return n.asked[len(n.asked)-1]
}

type nobody struct{}

func (nobody) Observe(*http.Request, string, int, int64, time.Duration) {}

func handler(routes []httpx.Route) http.Handler {
	router := httprouter.New()
	for _, r := range routes {
		router.Handler(r.Method, r.Path, httpx.Wrap(r.Path, r.Handler, slog.New(slog.DiscardHandler), nobody{}))
	}
	return router
}

// local opens a listener on a free port.
func local(t *testing.T) net.Listener {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// serve serves h on ln until the test ends, and answers the address and the server.
func serve(t *testing.T, ln net.Listener, h http.Handler, config *tls.Config) (string, *http.Server) {
	t.Helper()
	p := new(http.Protocols)
	p.SetHTTP1(true)
	p.SetHTTP2(true)
	p.SetUnencryptedHTTP2(config == nil)
	s := &http.Server{Handler: h, Protocols: p, TLSConfig: config, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	var wg sync.WaitGroup
	wg.Go(func() {
		if config != nil {
			_ = s.ServeTLS(ln, "", "")
			return
		}
		_ = s.Serve(ln)
	})
	t.Cleanup(func() {
		_ = s.Close()
		wg.Wait()
	})
	return ln.Addr().String(), s
}

// logs is a log that can be read while it is written.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *logs) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

package test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tmaxmax/go-sse"

	"github.com/kateway/kateway/internal/testkit"
)

// P3. Clients of server-sent events that others wrote, each by its own means of coming back, see every message of a topic once,
// in order, while their gateway is changed for another, stops, and is killed.
func TestForeignEventSources(t *testing.T) {
	t.Run("go-sse", func(t *testing.T) { foreign(t, listenGo, true) })
	t.Run("node", func(t *testing.T) { foreign(t, listenNode, false) }) // it gives up when a connection is refused
	t.Run("chromium", func(t *testing.T) {
		p := newPage(t)
		foreign(t, p.listen, true, "--origins", p.URL)
	})
}

// foreign tells a client by got what it gets. patient is one that comes again where nobody listens.
func foreign(t *testing.T, listen func(t *testing.T, f *front, got func(string)), patient bool, flags ...string) {
	flags = append(flags, "--kafka", strings.Join(newFake(t), ","), "--id")
	start := func(id string) *gateway { return launch(t, append(flags, id, "--data", t.TempDir())...) }
	a, b := start("a"), start("b")
	a.client("default").publish("ticks", "", "before")
	f := newFront(t, a)
	var mu sync.Mutex
	var got []string
	listen(t, f, func(data string) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, decode[message](t, []byte(data)).text())
	})
	waitFor(t, "the client to be connected", func() bool { return a.metric("kateway_broadcast_readers") == 1 })

	var want []string
	publish := func(at *gateway) {
		for range 50 {
			want = append(want, fmt.Sprint("tick ", len(want)))
			at.client("default").publish("ticks", keyOf(len(want)-1), want[len(want)-1])
		}
	}
	have := func(when string) {
		t.Helper()
		waitFor(t, "all messages "+when, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(got) >= len(want)
		})
	}
	publish(a)
	have("at first")
	f.aim(b)
	f.cut()
	publish(a)
	have("at another gateway")
	publish(b)
	if !patient {
		f.aim(a)
	}
	b.stop() // its streams end in order
	publish(a)
	f.aim(a)
	have("after a gateway stopped")
	publish(a)
	c := start("c")
	if !patient {
		f.aim(c)
	}
	a.kill()
	publish(c)
	f.aim(c)
	have("after a gateway was killed")

	mu.Lock()
	defer mu.Unlock()
	for k := range keys { // messages of one key have an order
		if has, all := ofKey(got, k), ofKey(want, k); !slices.Equal(has, all) {
			t.Errorf("of key %d the client has %q, want %q", k, has, all)
		}
	}
	if len(got) != len(want) {
		t.Errorf("the client has %d messages, want %d", len(got), len(want))
	}
}

const keys = 5

func keyOf(tick int) string { return fmt.Sprint("key ", tick%keys) }

func ofKey(ticks []string, k int) (list []string) {
	for _, s := range ticks {
		var n int
		if _, err := fmt.Sscanf(s, "tick %d", &n); err == nil && n%keys == k {
			list = append(list, s)
		}
	}
	return list
}

// front is an address behind which gateways come and go.
type front struct {
	ln net.Listener

	mu     sync.Mutex
	target string
	conns  map[net.Conn]bool
}

func newFront(t *testing.T, to *gateway) *front {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &front{ln: ln, target: strings.TrimPrefix(to.pub, "http://"), conns: map[net.Conn]bool{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { f.pass(c) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		f.cut()
		wg.Wait()
	})
	return f
}

func (f *front) url() string {
	return "http://" + f.ln.Addr().String() + "/v1/stream/default/ticks/v1"
}

// aim has new connections go to another gateway.
func (f *front) aim(to *gateway) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.target = strings.TrimPrefix(to.pub, "http://")
}

// cut closes the connections that there are.
func (f *front) cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.conns {
		c.Close()
	}
}

func (f *front) pass(c net.Conn) {
	defer c.Close()
	f.mu.Lock()
	target := f.target
	f.mu.Unlock()
	up, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer up.Close()
	f.mu.Lock()
	f.conns[c] = true
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.conns, c)
	}()
	go func() {
		_, _ = io.Copy(up, c)
		up.Close()
	}()
	_, _ = io.Copy(c, up)
}

func listenGo(t *testing.T, f *front, got func(string)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url(), nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	client := sse.Client{HTTPClient: &http.Client{Transport: transport}, Backoff: sse.Backoff{InitialInterval: 100 * time.Millisecond, Multiplier: 1, Jitter: -1}}
	conn := client.NewConnection(req)
	conn.SubscribeEvent("message", func(e sse.Event) { got(e.Data) })
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := conn.Connect(); ctx.Err() == nil {
			t.Errorf("the client gave up: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		transport.CloseIdleConnections()
	})
}

const nodeScript = `
const es = new EventSource(process.argv[1]);
es.addEventListener('message', e => console.log(e.data));
es.onerror = () => { if (es.readyState === 2) { console.log('gave up'); process.exit(1); } };
setInterval(() => {}, 1000); // its own timers keep no process alive
`

func listenNode(t *testing.T, f *front, got func(string)) {
	t.Helper()
	if out, err := exec.Command("node", "--experimental-eventsource", "-e", "console.log(typeof EventSource)").Output(); err != nil || strings.TrimSpace(string(out)) != "function" {
		testkit.Missing(t, "EventSource of Node", fmt.Errorf("%w: %s", testkit.ErrMissing, out))
	}
	cmd := exec.CommandContext(t.Context(), "node", "--experimental-eventsource", "-e", nodeScript, f.url())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if lines.Text() == "gave up" {
				t.Error("the client gave up")
				return
			}
			got(lines.Text())
		}
	})
	t.Cleanup(func() { // the context has ended, and with it the process
		wg.Wait()
		_ = cmd.Wait()
	})
}

// page is a web page in Chromium, and the server that it comes from and tells what it gets.
type page struct {
	*httptest.Server
	content string
	got     func(string)
}

const pageScript = `<script>
const es = new EventSource(%q);
let last = Promise.resolve();
const tell = text => { last = last.then(() => fetch('/got', {method: 'POST', body: text})); };
es.addEventListener('message', e => tell(e.data));
es.onerror = () => { if (es.readyState === 2) tell('gave up'); };
</script>`

func newPage(t *testing.T) *page {
	t.Helper()
	if _, err := exec.LookPath("chromium"); err != nil {
		testkit.Missing(t, "Chromium", err)
	}
	p := &page{}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		switch {
		case r.Method == http.MethodGet:
			w.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(w, p.content)
		case err != nil:
			t.Errorf("reading from the page: %v", err)
		case string(b) == "gave up":
			t.Error("the client gave up")
		default:
			p.got(string(b))
		}
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *page) listen(t *testing.T, f *front, got func(string)) {
	t.Helper()
	p.content, p.got = fmt.Sprintf(pageScript, f.url()), got
	cmd := exec.CommandContext(t.Context(), "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
		"--no-first-run", "--user-data-dir="+filepath.Join(t.TempDir(), "chromium"), "--remote-debugging-port=0", p.URL)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Wait() })
}

package test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kateway/kateway/internal/testkit"
	"github.com/kateway/kateway/internal/zk"
)

// fleet is gateways that share a Kafka and a ZooKeeper.
type fleet struct {
	t     *testing.T
	zk    *testkit.Ensemble
	app   string
	flags []string // more of them, for each
	dirs  map[string]string
}

func newFleet(t *testing.T, flags ...string) *fleet {
	t.Helper()
	return newFleetOn(t, testkit.ZooKeepers(t, 1), flags...)
}

func newFleetOn(t *testing.T, zk *testkit.Ensemble, flags ...string) *fleet {
	t.Helper()
	return &fleet{t: t, zk: zk, app: appOf(t), flags: flags, dirs: map[string]string{}}
}

// start adds a gateway, or brings one back with its directory, and returns when it is ready.
func (f *fleet) start(id string) *gateway {
	f.t.Helper()
	g := launch(f.t, f.args(id)...)
	g.id = id
	return g
}

func (f *fleet) args(id string) []string {
	if f.dirs[id] == "" {
		f.dirs[id] = f.t.TempDir()
	}
	return append([]string{"--id", id, "--data", f.dirs[id], "--kafka", brokers(f.t), "--zk", f.zk.Addr(), "--peer", "127.0.0.1:0"}, f.flags...)
}

// listed are the gateways that ZooKeeper itself has.
func (f *fleet) listed() string {
	c, err := zk.Open(zk.Config{Servers: strings.Split(f.zk.Addr(), ","), Chroot: "/kateway", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.t.Fatal(err)
	}
	defer c.Close()
	ids, err := c.Children(f.t.Context(), "/gateways")
	if err != nil {
		return err.Error()
	}
	return strings.Join(ids, " ")
}

// streams is how many streams the gateway serves now.
func (g *gateway) streams() int {
	type online struct{ Gateway, Kind string }
	n := 0
	for _, c := range list[online](g.manager(), "/v1/clients") {
		if c.Kind == "stream" && c.Gateway == g.id {
			n++
		}
	}
	return n
}

// manager is a client of the gateway's management API.
func (g *gateway) manager() *client {
	c := g.client("")
	c.base = g.man
	return c
}

// send sends a JSON body and wants the status.
func (c *client) send(status int, method, path string, body any, header ...string) answer {
	c.t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		c.t.Fatal(err)
	}
	return c.want(status, method, path, bytes.NewReader(b), append(header, "Content-Type", "application/json")...)
}

// list are the items of a list.
func list[T any](c *client, path string) []T {
	c.t.Helper()
	a := c.want(http.StatusOK, "GET", path, nil)
	return decode[struct{ Items []T }](c.t, a.body).Items
}

// ids are the gateways that the registry lists, as this one sees it.
func (g *gateway) ids() string {
	type instance struct {
		ID string `json:"id"`
	}
	var ids []string
	for _, i := range list[instance](g.manager(), "/v1/gateways") {
		ids = append(ids, i.ID)
	}
	return strings.Join(ids, " ")
}

// agree waits until each of the gateways lists just these.
func agree(t *testing.T, want string, on ...*gateway) {
	t.Helper()
	for _, g := range on {
		waitFor(t, "the list of gateways to be "+want, func() bool { return g.ids() == want })
	}
}

// parts are what /ready says of each part, and how.
func (g *gateway) health(role string) (status int, parts map[string]string, detail map[string]string) {
	g.t.Helper()
	a, err := g.client("").do("GET", "/ready?role="+role, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	var h struct {
		Parts  map[string]string `json:"parts"`
		Detail map[string]string `json:"detail"`
	}
	if err := json.Unmarshal(a.body, &h); err != nil {
		g.t.Fatalf("%s: %v", a, err)
	}
	return a.StatusCode, h.Parts, h.Detail
}

// load publishes to the topic, one message after the other, through one gateway after the other, until it is stopped.
// What was answered 201 is in stored.
type load struct {
	mu     sync.Mutex
	stored map[string]bool
	failed []string
	stop   chan struct{}
	end    func() // may be called more than once
	wg     sync.WaitGroup
}

// newLoad ends with the test at the latest.
func newLoad(t *testing.T) *load {
	l := &load{stop: make(chan struct{}), stored: map[string]bool{}}
	l.end = sync.OnceFunc(func() {
		close(l.stop)
		l.wg.Wait()
	})
	t.Cleanup(l.end)
	return l
}

func (l *load) run(name, topic string, clients func() []*client) {
	l.wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-l.stop:
				return
			default:
			}
			list := clients()
			c, value := list[i%len(list)], fmt.Sprintf("%s-%d", name, i)
			a, err := c.do("POST", fmt.Sprintf("/v1/msgs/%s/v1?key=%s", topic, value), strings.NewReader(value))
			l.note(value, a, err)
		}
	})
}

func (l *load) note(value string, a answer, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err != nil:
		l.failed = append(l.failed, err.Error())
	case a.StatusCode != http.StatusCreated:
		l.failed = append(l.failed, a.String())
	default:
		l.stored[value] = true
	}
}

// count is how many were stored so far.
func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.stored)
}

// readers are streams of one group on several gateways. A stream that ends is opened again on the next gateway, as a
// client behind a load balancer does.
type readers struct {
	mu   sync.Mutex
	seen map[string]int
	errs []string
	stop chan struct{}
	end  func() // may be called more than once
	wg   sync.WaitGroup
}

// newReaders end with the test at the latest.
func newReaders(t *testing.T) *readers {
	r := &readers{stop: make(chan struct{}), seen: map[string]int{}}
	r.end = sync.OnceFunc(func() {
		close(r.stop)
		r.wg.Wait()
	})
	t.Cleanup(r.end)
	return r
}

func (r *readers) run(topic string, clients func() []*client, at int) {
	r.wg.Go(func() {
		for ; ; at++ {
			list := clients()
			if !r.read(list[at%len(list)], topic) {
				return
			}
		}
	})
}

// read follows one stream to its end, and reports whether to open another.
func (r *readers) read(c *client, topic string) bool {
	select {
	case <-r.stop:
		return false
	default:
	}
	resp, err := c.open(c.t.Context(), "GET", "/v1/stream/"+c.topicOf(topic)+"?group=g", nil)
	if err != nil || resp.StatusCode != http.StatusOK {
		if err == nil {
			resp.Body.Close()
		}
		select { // the gateway has just gone
		case <-r.stop:
			return false
		case <-time.After(50 * time.Millisecond):
			return true
		}
	}
	s := &stream{t: c.t, resp: resp, lines: make(chan []byte, 1024), stop: func() {}}
	go s.read(c.t.Context())
	defer s.close()
	for {
		select {
		case <-r.stop:
			return false
		case line, ok := <-s.lines:
			if !ok {
				return true
			}
			var m message
			if err := json.Unmarshal(line, &m); err != nil {
				r.fault(fmt.Sprintf("%q: %v", line, err))
				continue
			}
			r.mu.Lock()
			r.seen[m.text()]++
			r.mu.Unlock()
		}
	}
}

func (r *readers) fault(s string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errs = append(r.errs, s)
}

// has counts how many of the values were delivered, and lists those that were not.
func (r *readers) missing(stored map[string]bool) (missing []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for v := range stored {
		if r.seen[v] == 0 {
			missing = append(missing, v)
		}
	}
	return missing
}

// repeated lists what was delivered more than once.
func (r *readers) repeated() (twice []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for v, n := range r.seen {
		if n > 1 {
			twice = append(twice, fmt.Sprintf("%s (%d)", v, n))
		}
	}
	return twice
}

package gateway

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/gorilla/websocket"

	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/plugins"
)

// A WebSocket that is idle is two goroutines and no handler, whatever plugins it has passed. Those that have to do with its end
// do that at its end: quota gives its place back, audit writes its last record, and auth ends it with its key, or the gateway
// with itself.
func TestSocketsLeaveTheChain(t *testing.T) {
	var log string
	g := runGuardedWith(t, func(cfg *Config) {
		cfg.Plugins = []string{"auth", "quota", "guard", "callout", "audit"}
		cfg.PluginOptions = map[string]plugins.Options{
			"quota":   plugins.ParseOptions("default: {streams: 3}"),
			"callout": plugins.ParseOptions("{url: 'http://127.0.0.1:1/', on_failure: allow}"),
			"audit":   plugins.ParseOptions("events: [subscribe]"),
		}
		log = filepath.Join(cfg.Data, "plugins", "audit", "audit.log")
	}, "shop")
	open := func(path string) (conn *websocket.Conn, status int) {
		t.Helper()
		conn, resp, err := websocket.DefaultDialer.DialContext(t.Context(), "ws://"+g.Addr(Pub)+path, map[string][]string{"Authorization": {"Bearer " + g.keys["shop"]}})
		if resp == nil {
			t.Fatal(err)
		}
		return conn, resp.StatusCode
	}
	paths := []string{"/v1/ws/msgs/shop/orders/v1?group=g&mode=queue", "/v1/ws/msgs/shop/orders/v1?group=g&mode=queue", "/v1/ws/msgs/shop/orders/v1"}
	all := func() (list []*websocket.Conn) {
		t.Helper()
		for _, path := range paths {
			await(t, "there is room", func() bool { // what others gave back, too
				conn, _ := open(path)
				if conn != nil {
					list = append(list, conn)
				}
				return conn != nil
			})
		}
		return list
	}
	ends := func() int { return len(endsOfStreams(t, log)) }

	socks := all()
	await(t, "they are two goroutines each, and no handler stays", func() bool { return onStacks("/internal/ws.") == 2*len(socks) && onStacks("/sub.(*Handler).pass") == 0 })
	if _, status := open(paths[0]); status != 429 || ends() != 0 {
		t.Fatalf("one more than there may be: %d, %d are recorded as over", status, ends())
	}
	for _, conn := range socks {
		conn.Close()
	}
	await(t, "their ends are recorded", func() bool { return ends() == 3 })

	w := &watchers{guarded: g, t: t, ended: make(chan string, len(paths))}
	for _, conn := range all() { // there is room again
		w.watch(conn.RemoteAddr().String(), conn)
	}
	secret := g.keys["shop"]
	g.keys["shop"] = renew(t, g, "shop")
	w.end()
	await(t, "those of the ones whose key has gone are", func() bool { return ends() == 6 })
	if g.keys["shop"] == secret {
		t.Fatal("it is the same key")
	}

	for _, conn := range all() {
		w.watch("the last", conn) // so that it answers the close frame
	}
	if err := g.stop(); err != nil {
		t.Fatal(err)
	}
	list := endsOfStreams(t, log)
	groups := slices.DeleteFunc(slices.Clone(list), func(e endOfStream) bool { return e.Group != "g" })
	if len(list) != 9 || len(groups) != 6 {
		t.Errorf("%+v", list)
	}
	for _, e := range list {
		if e.App != "shop" || e.Topic != "shop/orders/v1" || e.Took == "" || e.RequestID == "" || !strings.HasPrefix(e.Remote, "127.0.0.1:") {
			t.Errorf("%+v", e)
		}
	}
}

// renew gives the app another key and takes the old one away.
func renew(t *testing.T, g *guarded, app string) string {
	t.Helper()
	id, secret, hash := meta.NewSecret()
	put(t, g.running, &meta.App{Name: app, Class: meta.ClassStandard, Keys: []meta.Key{{KeyID: id, Use: meta.UseBoth, Hash: hash}}})
	return secret
}

// endOfStream is what audit says of one.
type endOfStream struct {
	Event, App, Topic, Group, Remote, Result, Took string

	RequestID string `json:"request_id"`
}

// endsOfStreams are those that have been written.
func endsOfStreams(t *testing.T, file string) (list []endOfStream) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(b) {
		var e endOfStream
		if json.Unmarshal(line, &e) == nil && e.Event == "subscribe" && e.Result != "goes_on" {
			list = append(list, e)
		}
	}
	return list
}

// onStacks is the number of goroutines that are in a function of this name.
func onStacks(name string) (n int) {
	b := make([]byte, 8<<20)
	for stack := range bytes.SplitSeq(b[:runtime.Stack(b, true)], []byte("\n\n")) {
		stack, _, _ = bytes.Cut(stack, []byte("\ncreated by "))
		if bytes.Contains(stack, []byte(name)) {
			n++
		}
	}
	return n
}

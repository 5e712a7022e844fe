package test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// revokedWithin is how soon a key that is taken back counts nowhere any more.
const revokedWithin = 5 * time.Second

// A key that is taken back at one gateway counts at none within seconds: not for requests, and what is open with it, or with a
// token that was made of it, ends and says why.
func TestRevocationReachesAllGateways(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "--plugins", "auth", "--admin-key-file", keyFile(t))
	all := []*gateway{f.start("gw1"), f.start("gw2"), f.start("gw3")}
	auth := []string{"Authorization", "Bearer " + adminKey}
	man := all[0].manager()
	man.send(http.StatusCreated, "POST", "/v1/apps", map[string]any{"app": f.app}, auth...)
	man.send(http.StatusCreated, "POST", "/v1/topics", map[string]any{"app": f.app, "topic": "orders", "ver": "v1", "partitions": 1, "replicas": 1}, auth...)
	type shown struct{ ID, Key string }
	newKey := func() shown {
		return decode[shown](t, man.send(http.StatusCreated, "POST", "/v1/apps/"+f.app+"/keys", map[string]any{"use": "both"}, auth...).body)
	}
	key, other := newKey(), newKey()
	c := all[1].client(f.app)
	waitFor(t, "the keys to be known everywhere", func() bool {
		for _, g := range all {
			if a, err := g.client(f.app).do("GET", "/v1/msgs/"+c.topicOf("orders")+"?group=g&wait=0s", nil, "Subkey", other.Key); err != nil || a.StatusCode != http.StatusNoContent {
				return false
			}
		}
		return true
	})
	token := decode[struct{ Token string }](t, c.want(http.StatusCreated, "POST", "/v1/tokens",
		strings.NewReader(fmt.Sprintf(`{"op":"sub","app":%q,"topic":"orders","ver":"v1","ttl":"1h"}`, f.app)), "Subkey", key.Key).body).Token

	o := &openCalls{t: t, ended: map[string]chan string{}}
	for _, g := range all {
		c := g.client(f.app)
		at := c.topicOf("orders")
		o.read(g.id+" poll", c, "/v1/msgs/"+at+"?group=p&wait=5m", "Subkey", key.Key)
		o.read(g.id+" stream", c, "/v1/stream/"+at+"?group=s", "Subkey", key.Key)
		o.read(g.id+" events", c, "/v1/stream/"+at+"?access_token="+token, "Accept", "text/event-stream")
		o.socket(g.id+" socket", g, "/v1/ws/msgs/"+at+"?group=w", http.Header{"Appid": {f.app}, "Subkey": {key.Key}})
		o.socket(g.id+" broadcast", g, "/v1/ws/msgs/"+at, nil, "bearer."+token)
		o.socket(g.id+" publisher", g, "/v1/ws/pub/orders/v1", http.Header{"Appid": {f.app}, "Pubkey": {key.Key}})
		o.read(g.id+" other", c, "/v1/stream/"+at+"?group=s", "Subkey", other.Key)
		waitFor(t, "all to be open", func() bool { return g.open(auth) >= 6 })
	}
	man.want(http.StatusNoContent, "DELETE", "/v1/apps/"+f.app+"/keys/"+key.ID, nil, auth...)
	begun := time.Now()
	for name, ended := range o.ended {
		if strings.HasSuffix(name, " other") {
			continue
		}
		select {
		case got := <-ended:
			if !strings.Contains(got, "unauthenticated") {
				t.Errorf("%s ends with %s", name, got)
			}
		case <-time.After(time.Until(begun.Add(revokedWithin))):
			t.Errorf("%s goes on %v after the key was taken back", name, revokedWithin)
		}
	}
	t.Logf("all were ended %v after the key was taken back", time.Since(begun).Round(time.Millisecond))
	for _, g := range all {
		c := g.client(f.app)
		c.want(http.StatusUnauthorized, "POST", "/v1/msgs/orders/v1", strings.NewReader("x"), "Pubkey", key.Key)
		c.want(http.StatusUnauthorized, "GET", "/v1/msgs/"+c.topicOf("orders")+"?cursor=&wait=0s&access_token="+token, nil)
		c.want(http.StatusCreated, "POST", "/v1/msgs/orders/v1", strings.NewReader("x"), "Pubkey", other.Key)
		select {
		case got := <-o.ended[g.id+" other"]:
			t.Errorf("what another key opened ends too: %s", got)
		default:
		}
	}
}

// open is how many subscribers and publishers over WebSockets there are at this gateway now.
func (g *gateway) open(auth []string) (n int) {
	a := g.manager().want(http.StatusOK, "GET", "/v1/clients?limit=1000", nil, auth...)
	for _, c := range decode[struct {
		Items []struct{ Gateway, Kind string }
	}](g.t, a.body).Items {
		if c.Gateway == g.id && c.Kind != "pub" {
			n++
		}
	}
	return n
}

// openCalls are calls that go on until they are ended; what each says then comes over its channel.
type openCalls struct {
	t     *testing.T
	ended map[string]chan string
}

// read opens a stream or a poll that waits.
func (o *openCalls) read(name string, c *client, path string, header ...string) {
	ended := make(chan string, 1)
	o.ended[name] = ended
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	o.t.Cleanup(func() { cancel(); <-done })
	go func() {
		defer close(done)
		resp, err := c.open(ctx, "GET", path, nil, header...)
		if err != nil {
			ended <- err.Error()
			return
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		ended <- fmt.Sprint(resp.Status, " ", string(b), err)
	}()
}

// socket opens a WebSocket.
func (o *openCalls) socket(name string, g *gateway, path string, header http.Header, protocol ...string) {
	o.t.Helper()
	ended := make(chan string, 1)
	o.ended[name] = ended
	d := websocket.Dialer{Subprotocols: protocol}
	conn, resp, err := d.DialContext(o.t.Context(), strings.Replace(g.pub, "http", "ws", 1)+path, header)
	if err != nil {
		o.t.Fatal(name, err, resp)
	}
	done := make(chan struct{})
	o.t.Cleanup(func() { conn.Close(); <-done })
	go func() {
		defer close(done)
		for {
			_, _, err := conn.ReadMessage()
			if err == nil {
				continue
			}
			var end *websocket.CloseError
			if errors.As(err, &end) {
				err = fmt.Errorf("%d %s", end.Code, end.Text)
			}
			ended <- err.Error()
			return
		}
	}()
}

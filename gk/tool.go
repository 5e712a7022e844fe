package gk

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/alecthomas/kong"
)

// defaultData is where pub and sub are when nobody says so.
const defaultData = "http://127.0.0.1:9191"

// tool is what all commands work with.
type tool struct {
	global    *global
	env       environment
	in        io.Reader
	out       *output
	err       io.Writer
	version   string
	model     *kong.Application
	stale     atomic.Bool // told that the gateway's knowledge is old
	transport *http.Transport
	man       *client
}

func newTool(g *global, environ environment, io streams, version string) (*tool, error) {
	if g.Timeout <= 0 {
		return nil, usagef("--timeout %v: must be above 0", g.Timeout)
	}
	tr, err := newTransport(g.CAFile)
	if err != nil {
		return nil, err
	}
	t := &tool{
		global: g, env: environ, in: io.in, err: io.err, version: version, transport: tr,
		out: newOutput(io.out, g.Output == "json"),
	}
	if t.man, err = newClient("--man", g.Man, tr, g.Timeout); err != nil {
		return nil, err
	}
	t.man.saw = t.noteStale
	key, err := secret("--admin-key-file", g.AdminKeyFile, environ.get("KATEWAY_ADMIN_KEY"))
	if err != nil {
		return nil, err
	}
	if key != "" {
		t.man.header.Set("Authorization", "Bearer "+key)
	}
	return t, nil
}

// noteStale tells, once, that the gateway can't reach where apps, topics and grants are kept, and speaks of the last that it knows.
func (t *tool) noteStale(h http.Header) {
	if h.Get("X-Stale") != "" && !t.stale.Swap(true) {
		fmt.Fprintln(t.err, "gk: the gateway speaks of the last that it knows: where apps, topics and grants are kept can't be reached (gk doctor)")
	}
}

func (t *tool) close() { t.transport.CloseIdleConnections() }

func (t *tool) flush() error { return t.out.flush() }

// secret reads a key from its file, or takes the environment's. It never stands in an error.
func secret(option, file, fallback string) (string, error) {
	key := strings.TrimSpace(fallback)
	where := "the key of the environment"
	if file != "" {
		b, err := os.ReadFile(file)
		if err != nil {
			return "", usagef("%s: %v", option, err)
		}
		key, where = strings.TrimSpace(string(b)), option+" "+file
		if key == "" {
			return "", usagef("%s: the file is empty", where)
		}
	}
	if strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", usagef("%s: a key is one line of visible ASCII", where)
	}
	return key, nil
}

// call makes a change and shows the object that comes back, if one does; done is said otherwise.
func (t *tool) call(ctx context.Context, r request, done string) error {
	a, err := t.man.do(ctx, r)
	if err != nil {
		return err
	}
	if len(bytes.TrimSpace(a.body)) == 0 {
		return t.out.say(done)
	}
	return t.out.object(a)
}

// show shows one object.
func (t *tool) show(ctx context.Context, path string) error {
	a, err := t.man.get(ctx, path, nil)
	if err != nil {
		return err
	}
	return t.out.object(a)
}

// change is a request of the management API with a body.
func change(method, path string, body any, m match) request {
	return request{method: method, path: path, body: body, header: m.header()}
}

// removal is a DELETE.
func removal(path string, m match) request {
	return request{method: http.MethodDelete, path: path, header: m.header()}
}

// header quotes the ETag, if the caller did not.
func (m match) header() http.Header {
	switch {
	case m.IfMatch == "":
		return nil
	case m.IfMatch != "*" && !strings.HasPrefix(m.IfMatch, `"`):
		return http.Header{"If-Match": {`"` + m.IfMatch + `"`}}
	}
	return http.Header{"If-Match": {m.IfMatch}}
}

// data makes a client of a gateway's pub or sub address: the one given, or the gateway's own as it tells, or the default.
func (t *tool) data(ctx context.Context, what, given string, who caller, owner, keyHeader string) (*client, error) {
	address := given
	if address == "" {
		address = t.advertised(ctx, what)
	}
	c, err := newClient("--"+what, address, t.transport, t.global.Timeout)
	if err != nil {
		return nil, err
	}
	key, err := secret("--app-key-file", who.AppKeyFile, t.env.get("KATEWAY_APP_KEY"))
	if err != nil {
		return nil, err
	}
	if who.App == "" {
		who.App = owner
	}
	c.header.Set("Appid", who.App)
	if key != "" {
		c.header.Set(keyHeader, key)
	}
	return c, nil
}

// advertised is where the role is served, by what the gateway says.
func (t *tool) advertised(ctx context.Context, role string) string {
	list, err := t.instances(ctx)
	if err != nil {
		return defaultData
	}
	self := t.self(ctx)
	// The gateway that we speak to first, since we know that we can reach it.
	slices.SortStableFunc(list, func(a, b instance) int {
		return btoi(b.ID == self.ID) - btoi(a.ID == self.ID)
	})
	for _, g := range list {
		address := g.Pub
		if role == "sub" {
			address = g.Sub
		}
		if address != "" {
			return t.scheme() + "://" + address
		}
	}
	return defaultData
}

// scheme is what the gateways speak: what the one does that we ask.
func (t *tool) scheme() string {
	scheme, _, _ := strings.Cut(t.man.base, "://")
	return scheme
}

// self is the gateway that we ask; the zero value where it does not say.
func (t *tool) self(ctx context.Context) identity {
	var self identity
	if a, err := t.man.get(ctx, "/v1/status", nil); err == nil {
		_ = a.into(&self) // it is of use only where it can be read
	}
	return self
}

// instances are all gateways.
func (t *tool) instances(ctx context.Context) ([]instance, error) {
	var list []instance
	for raw, err := range t.items(ctx, "/v1/gateways", nil) {
		if err != nil {
			return nil, err
		}
		var g instance
		if err := json.Unmarshal(raw, &g); err != nil {
			return nil, fmt.Errorf("GET /v1/gateways: %w", err)
		}
		list = append(list, g)
	}
	return list, nil
}

// query makes a query of pairs; an empty value is left out.
func query(pairs ...string) url.Values {
	v := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			v.Set(pairs[i], pairs[i+1])
		}
	}
	return v
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

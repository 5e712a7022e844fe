package plugins

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/kateway/kateway/internal/errs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// link is a plugin of its own making.
type link func(ctx context.Context, c *Call, next Handler) error

func (l link) Wrap(next Handler) Handler {
	return func(ctx context.Context, c *Call) error { return l(ctx, c, next) }
}

// identifier is a link that says who calls.
type identifier struct{ link }

func (identifier) Identifies() {}

func request(body string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
	r.RemoteAddr = "192.0.2.7:51234"
	r.Header.Set("Appid", "shop")
	return r
}

func TestChainIsPassedInOrder(t *testing.T) {
	var order []string
	step := func(name string) Plugin {
		return link(func(ctx context.Context, c *Call, next Handler) error {
			order = append(order, name)
			err := next(ctx, c)
			order = append(order, "/"+name)
			if !errors.Is(c.Result, errs.Conflict) {
				t.Errorf("%s sees the result %v", name, c.Result)
			}
			return err
		})
	}
	c := &Call{App: "shop"}
	err := NewGate([]Plugin{step("a"), step("b")}).Pass(httptest.NewRecorder(), request("v"), c, func(*http.Request) error {
		order = append(order, "work")
		return errs.Conflict
	})
	if want := []string{"a", "b", "work", "/b", "/a"}; !slices.Equal(order, want) || !errors.Is(err, errs.Conflict) {
		t.Errorf("%v, %v", order, err)
	}
}

func TestPluginsSeeTheRequest(t *testing.T) {
	type key struct{}
	var seen Call
	g := NewGate([]Plugin{link(func(ctx context.Context, c *Call, next Handler) error {
		seen = *c
		return next(context.WithValue(ctx, key{}, "deeper"), c)
	})})
	var inner *http.Request
	w := httptest.NewRecorder()
	err := g.Pass(w, request("12345"), &Call{Op: Publish, App: "shop", Topic: "t"}, func(r *http.Request) error { inner = r; return nil })
	if err != nil || seen.App != "shop" || seen.Remote != "192.0.2.7:51234" || seen.Size != 5 || seen.Header.Get("Appid") != "shop" {
		t.Errorf("%+v, %v", seen, err)
	}
	if inner.Context().Value(key{}) != "deeper" {
		t.Error("the work has not the context of the chain")
	}
	if w.Header().Get("Connection") != "" {
		t.Error("the connection of a request that passed is closed")
	}
}

func TestWhoCalls(t *testing.T) {
	says := func(app string) Plugin {
		return identifier{func(ctx context.Context, c *Call, next Handler) error {
			if c.App != "" {
				t.Errorf("the claim %q is there before it is proven", c.App)
			}
			c.App = app
			return next(ctx, c)
		}}
	}
	nothing := link(func(ctx context.Context, c *Call, next Handler) error { return next(ctx, c) })
	for _, tc := range []struct {
		name  string
		chain []Plugin
		want  string // "" = it must not get through
	}{
		{"nobody asks", []Plugin{nothing}, "claimed"},
		{"proven", []Plugin{nothing, says("proven")}, "proven"},
		{"forgotten", []Plugin{says("")}, ""},
	} {
		got := ""
		c := &Call{App: "claimed"}
		err := NewGate(tc.chain).Pass(httptest.NewRecorder(), request(""), c, func(*http.Request) error { got = c.App; return nil })
		if got != tc.want || (err == nil) != (tc.want != "") {
			t.Errorf("%s: %q, %v", tc.name, got, err)
		}
	}
}

// A request that is refused is not read, and a chain that says nothing is no yes.
func TestRefused(t *testing.T) {
	pass := func(ctx context.Context, c *Call, next Handler) error { return next(ctx, c) }
	for _, tc := range []struct {
		name   string
		plugin link
		body   string
		proto  int
		kind   errs.Kind
		worked int
		closes bool
	}{
		{"refused", func(context.Context, *Call, Handler) error { return errs.Denied }, "body", 1, errs.Denied, 0, true},
		{"refused, no body", func(context.Context, *Call, Handler) error { return errs.Denied }, "", 1, errs.Denied, 0, false},
		{"too fast", func(context.Context, *Call, Handler) error { return errs.Throttled }, "body", 1, errs.Throttled, 0, false},
		{"too fast, a large body", func(context.Context, *Call, Handler) error { return errs.Throttled }, strings.Repeat("x", small+1), 1, errs.Throttled, 0, true},
		{"refused on h2", func(context.Context, *Call, Handler) error { return errs.Denied }, "body", 2, errs.Denied, 0, false},
		{"neither nor", func(context.Context, *Call, Handler) error { return nil }, "body", 1, errs.Internal, 0, true},
		{"twice", func(ctx context.Context, c *Call, next Handler) error { _ = next(ctx, c); return next(ctx, c) }, "body", 1, errs.Internal, 1, false},
		{"failure kept back", func(ctx context.Context, c *Call, next Handler) error { _ = next(ctx, c); return nil }, "fail", 1, errs.Unavailable, 1, false},
		{"failure", pass, "fail", 1, errs.Unavailable, 1, false},
		{"refused afterwards", func(ctx context.Context, c *Call, next Handler) error { _ = next(ctx, c); return errs.Denied }, "body", 1, errs.Denied, 1, false},
	} {
		w, r, worked := httptest.NewRecorder(), request(tc.body), 0
		r.ProtoMajor = tc.proto
		err := NewGate([]Plugin{tc.plugin}).Pass(w, r, &Call{App: "shop"}, func(*http.Request) error {
			worked++
			if tc.body == "fail" {
				return errs.Unavailable
			}
			return nil
		})
		if err == nil || errs.Of(err) != tc.kind || worked != tc.worked || (w.Header().Get("Connection") == "close") != tc.closes {
			t.Errorf("%s: %v, worked %d times, Connection %q", tc.name, err, worked, w.Header().Get("Connection"))
		}
		if worked == 0 && tc.body != "" {
			if n, _ := r.Body.Read(make([]byte, 8)); n == 0 {
				t.Errorf("%s: the body was read", tc.name)
			}
		}
	}
}

func TestNoPluginsNoGate(t *testing.T) {
	if NewGate(nil) != nil || NewGate([]Plugin{}) != nil {
		t.Error("a gate with nothing in it")
	}
}

func TestCaller(t *testing.T) {
	for _, tc := range []struct {
		appid []string
		want  string
		kind  errs.Kind
	}{
		{nil, "default", 0},
		{[]string{""}, "default", 0},
		{[]string{"shop"}, "shop", 0},
		{[]string{"a", "a"}, "", errs.InvalidParam},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header["Appid"] = tc.appid
		if got, err := Caller(r); got != tc.want || (err != nil) != (tc.kind != 0) || err != nil && errs.Of(err) != tc.kind {
			t.Errorf("%q: %q, %v", tc.appid, got, err)
		}
	}
}

// inspector admits and inspects as it is told.
type inspector struct {
	link
	admit   error
	inspect Inspection
}

func (i inspector) Admit(context.Context, *Call) error { return i.admit }
func (i inspector) Inspection(*Call) Inspection        { return i.inspect }

func TestMessagesAreInspectedInOrder(t *testing.T) {
	pass := link(func(ctx context.Context, c *Call, next Handler) error { return next(ctx, c) })
	adds := func(s string) Inspection {
		return func(_ context.Context, m *Message) error {
			m.Value = append(m.Value, s...)
			return nil
		}
	}
	refuses := func(context.Context, *Message) error { return errs.SchemaViolation }
	drops := func(_ context.Context, m *Message) error { m.Dropped = true; return nil }
	for _, tc := range []struct {
		list []Inspection
		want string
		err  error
	}{
		{[]Inspection{nil, nil}, "none", nil},
		{[]Inspection{nil, adds("a")}, "a", nil},
		{[]Inspection{adds("a"), nil, adds("b")}, "ab", nil},
		{[]Inspection{adds("a"), refuses, adds("b")}, "a", errs.SchemaViolation},
		{[]Inspection{adds("a"), drops, refuses}, "a", nil},
	} {
		var chain []Plugin
		for _, i := range tc.list {
			chain = append(chain, inspector{pass, nil, i})
		}
		inspect, m := NewGate(chain).Inspection(&Call{}), &Message{}
		if inspect == nil {
			if tc.want != "none" {
				t.Errorf("%q: nobody inspects", tc.want)
			}
			continue
		}
		if err := inspect(t.Context(), m); !errors.Is(err, tc.err) || string(m.Value) != tc.want {
			t.Errorf("%q, %v; want %q, %v", m.Value, err, tc.want, tc.err)
		}
	}
}

func TestEveryAdmitterIsAsked(t *testing.T) {
	pass := link(func(ctx context.Context, c *Call, next Handler) error { return next(ctx, c) })
	if err := NewGate([]Plugin{inspector{link: pass}, pass}).Admit(t.Context(), &Call{}); err != nil {
		t.Error(err)
	}
	if err := NewGate([]Plugin{inspector{link: pass}, inspector{pass, errs.Throttled, nil}}).Admit(t.Context(), &Call{}); !errors.Is(err, errs.Throttled) {
		t.Error(err)
	}
}

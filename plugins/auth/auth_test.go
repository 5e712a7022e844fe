package auth

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/meta/mem"
	"github.com/kateway/kateway/plugins"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// keys are secrets by who holds them and what for.
type keys map[string]string

// world is a directory of three apps: shop owns orders, on which bill has a grant for one group and audit for all. off
// is disabled.
type world struct {
	t      testing.TB
	dir    *meta.Directory
	plugin *Plugin
	keys   keys
	log    logBuffer

	options string   // of the plugin, as in the file
	secrets [][]byte // the gateways'
}

// logBuffer is a log that several may write to.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// options reads options as they stand in the file.
func options(t testing.TB, text string) *Options {
	t.Helper()
	o, err := readOptions(plugins.ParseOptions(text))
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func newWorld(t testing.TB, opts ...string) *world {
	t.Helper()
	w := &world{t: t, keys: keys{}, options: strings.Join(opts, "\n"), secrets: [][]byte{bytes.Repeat([]byte("s"), 32)}}
	src := mem.New()
	w.dir = meta.NewDirectory(meta.Config{Source: src, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = w.dir.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended; _ = src.Close() })
	w.plugin = w.over(w.dir)
	for _, app := range []string{"shop", "bill", "audit", "off"} {
		w.put(w.app(app))
	}
	for _, topic := range []meta.Topic{{App: "shop", Name: "orders", Ver: "v1"}, {App: "bill", Name: "own", Ver: "v1"}} {
		w.put(&meta.TopicRecord{App: topic.App, Name: topic.Name, Ver: topic.Ver, Partitions: 1, MaxAttempts: 16})
	}
	w.grant("orders", "bill", "invoices")
	w.grant("orders", "audit")
	w.grant("gone", "bill", "invoices")
	return w
}

func (w *world) over(m plugins.Meta) *Plugin {
	log := slog.New(slog.NewTextHandler(&w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	w.t.Helper()
	p, err := New(options(w.t, w.options), plugins.Env{ID: "gw1", Meta: m, Log: log, Metrics: prometheus.NewRegistry(), Secrets: func() [][]byte { return w.secrets }})
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (w *world) put(r meta.Record) {
	w.t.Helper()
	if _, err := w.dir.Put(context.Background(), r, ""); err != nil {
		w.t.Fatal(err)
	}
}

// app is one with a key per use, a second one for both, one that has expired and one that will.
func (w *world) app(name string) *meta.App {
	a := &meta.App{Name: name, Class: meta.ClassStandard, Disabled: name == "off"}
	past, future := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	add := func(label, use string, expires *time.Time) {
		id, secret, hash := meta.NewSecret()
		w.keys[name+"/"+label] = secret
		a.Keys = append(a.Keys, meta.Key{KeyID: id, Name: label, Use: use, Hash: hash, Expires: expires})
	}
	add("pub", meta.UsePub, nil)
	add("sub", meta.UseSub, nil)
	add("both", meta.UseBoth, nil)
	add("expired", meta.UseBoth, &past)
	add("expires", meta.UseBoth, &future)
	return a
}

func (w *world) grant(topic, subscriber string, groups ...string) {
	w.t.Helper()
	w.put(&meta.Subscription{App: "shop", Name: topic, Ver: "v1", Subscriber: subscriber, Groups: groups})
}

// ask sends a call through the plugin. It answers whether it came through, and the error.
func (w *world) ask(c *plugins.Call) (through bool, err error) {
	err = w.plugin.Wrap(func(context.Context, *plugins.Call) error { through = true; return nil })(context.Background(), c)
	return through, err
}

// call has the headers given as "Name: value".
func call(op plugins.Op, owner, topic, group string, head ...string) *plugins.Call {
	c := &plugins.Call{Op: op, Owner: owner, Topic: topic, Ver: "v1", Group: group, Header: http.Header{}, Remote: "192.0.2.1:5"}
	for _, line := range head {
		name, value, _ := strings.Cut(line, ": ")
		c.Header.Add(name, value)
	}
	return c
}

// forms are the ways to show a key.
var forms = map[string]func(op plugins.Op, app, key string) []string{
	"appid and key": func(op plugins.Op, app, key string) []string {
		name := "Subkey: "
		if op == plugins.Publish {
			name = "Pubkey: "
		}
		return []string{"Appid: " + app, name + key}
	},
	"bearer": func(_ plugins.Op, _, key string) []string { return []string{"Authorization: Bearer " + key} },
	"bearer and appid": func(_ plugins.Op, app, key string) []string {
		return []string{"Authorization: bEARER  " + key, "Appid: " + app}
	},
	"basic": func(_ plugins.Op, app, key string) []string { return []string{basic(app + ":" + key)} },
	"basic and appid": func(_ plugins.Op, app, key string) []string {
		return []string{basic(app + ":" + key), "Appid: " + app}
	},
}

func basic(pair string) string {
	return "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(pair))
}

// TestEveryFormWithEveryFault is the matrix: each op with each way to show a key and each thing that can be wrong with it.
func TestEveryFormWithEveryFault(t *testing.T) {
	w := newWorld(t)
	fits := map[plugins.Op]string{plugins.Publish: "pub", plugins.Subscribe: "sub", plugins.Settle: "sub"}
	other := map[string]string{"pub": "sub", "sub": "pub"}
	good := w.keys["shop/both"]
	for op, use := range fits {
		for form, head := range forms {
			for _, f := range []struct {
				name, app, key string
				want           verdict
			}{
				{"key for it", "shop", w.keys["shop/"+use], passed},
				{"key for both", "shop", good, passed},
				{"key that expires later", "shop", w.keys["shop/expires"], passed},
				{"key that has expired", "shop", w.keys["shop/expired"], expired},
				{"key for the other use", "shop", w.keys["shop/"+other[use]], otherUse},
				{"disabled app", "off", w.keys["off/both"], disabled},
				{"unknown id", "shop", "0123456789abcdef" + good[16:], unknown},
				{"last character wrong", "shop", flip(good), wrong},
				{"cut off", "shop", good[:len(good)-1], wrong},
				{"something behind", "shop", good + "x", wrong},
				{"no secret", "shop", good[:17], malformed},
				{"id alone", "shop", good[:16], malformed},
				{"dot", "shop", ".", malformed},
				{"no key at all", "shop", "secret", malformed},
				{"very long", "shop", good + strings.Repeat("x", 8<<10), malformed},
				{"hash instead of the secret", "shop", good[:17] + w.dir.Snapshot().App("shop").Keys[2].Hash, wrong},
				{"another app's key", "shop", w.keys["bill/both"], otherApp},
				{"unknown app", "nobody", good, otherApp},
				{"app in other letters", "Shop", good, otherApp},
			} {
				if f.want == otherApp && form == "bearer" {
					continue // there is no claim to be contradicted
				}
				c := call(op, "shop", "orders", "g", head(op, f.app, f.key)...)
				before := testutil.ToFloat64(w.plugin.verdicts[f.want])
				through, err := w.ask(c)
				what := fmt.Sprintf("op %d, %s, %s", op, form, f.name)
				if through != (f.want == passed) || (err == nil) != through {
					t.Errorf("%s: through %v, %v", what, through, err)
				}
				if err != nil && (!errors.Is(err, errs.Unauthenticated) || err.Error() != errWho.Error()) {
					t.Errorf("%s: %v", what, err)
				}
				if through && (c.App != f.app || c.KeyID != f.key[:16] || c.Expires.IsZero() != (f.name != "key that expires later")) {
					t.Errorf("%s: %+v", what, c)
				}
				if !through && (c.App != "" || c.KeyID != "") {
					t.Errorf("%s: app %q, key %q of a call that was refused", what, c.App, c.KeyID)
				}
				if testutil.ToFloat64(w.plugin.verdicts[f.want]) != before+1 {
					t.Errorf("%s: not counted as %s", what, names[f.want])
				}
			}
		}
	}
	w.noSecretsLogged()
}

func flip(key string) string {
	last := key[len(key)-2] // the very last character has bits that count for nothing
	if last == 'A' {
		last = 'B'
	} else {
		last = 'A'
	}
	return key[:len(key)-2] + string(last) + key[len(key)-1:]
}

// noSecretsLogged fails the test where the log has a key or a hash.
func (w *world) noSecretsLogged() {
	w.t.Helper()
	for name, secret := range w.keys {
		if strings.Contains(w.log.String(), secret[17:]) || strings.Contains(w.log.String(), meta.HashSecret(secret)) {
			w.t.Errorf("the secret of %s was logged", name)
		}
	}
}

// TestHeaders is what can be wrong with the headers themselves.
func TestHeaders(t *testing.T) {
	w := newWorld(t)
	pub, sub := w.keys["shop/pub"], w.keys["shop/sub"]
	for _, k := range []struct {
		name string
		op   plugins.Op
		head []string
		want verdict
	}{
		{"nothing", plugins.Publish, nil, missing},
		{"a claim alone", plugins.Publish, []string{"Appid: shop"}, missing},
		{"no claim", plugins.Publish, []string{"Pubkey: " + pub}, missing},
		{"empty", plugins.Publish, []string{"Appid: shop", "Pubkey: "}, missing},
		{"the other role's header", plugins.Publish, []string{"Appid: shop", "Subkey: " + pub}, missing},
		{"pub's header on sub", plugins.Subscribe, []string{"Appid: shop", "Pubkey: " + sub}, missing},
		{"pub's header on settle", plugins.Settle, []string{"Appid: shop", "Pubkey: " + sub}, missing},
		{"both roles' headers", plugins.Publish, []string{"Appid: shop", "Pubkey: " + pub, "Subkey: x"}, passed},
		{"claim twice", plugins.Publish, []string{"Appid: shop", "Appid: shop", "Pubkey: " + pub}, ambiguous},
		{"key twice", plugins.Publish, []string{"Appid: shop", "Pubkey: " + pub, "Pubkey: " + pub}, ambiguous},
		{"authorization twice", plugins.Publish, []string{"Authorization: Bearer " + pub, "Authorization: Bearer " + pub}, ambiguous},
		{"two ways at once", plugins.Publish, []string{"Appid: shop", "Pubkey: " + pub, "Authorization: Bearer " + pub}, ambiguous},
		{"bearer of nothing", plugins.Publish, []string{"Authorization: Bearer"}, malformed},
		{"key without a scheme", plugins.Publish, []string{"Authorization: " + pub}, malformed},
		{"other scheme", plugins.Publish, []string{"Authorization: Digest " + pub}, malformed},
		{"no base64", plugins.Publish, []string{"Authorization: Basic shop:" + pub}, malformed},
		{"no colon", plugins.Publish, []string{basic(pub)}, malformed},
		{"no app", plugins.Publish, []string{basic(":" + pub)}, malformed},
		{"no password", plugins.Publish, []string{basic("shop:")}, malformed},
		{"appid against basic", plugins.Publish, []string{"Appid: bill", basic("shop:" + pub)}, otherApp},
		{"appid against bearer", plugins.Publish, []string{"Appid: bill", "Authorization: Bearer " + pub}, otherApp},
		{"an app of bytes", plugins.Publish, []string{basic("\xff\x00:" + pub)}, otherApp},
	} {
		through, err := w.ask(call(k.op, "", "orders", "", k.head...))
		if k.op != plugins.Publish {
			through, err = w.ask(call(k.op, "shop", "orders", "g", k.head...))
		}
		kind := errs.Unauthenticated
		if k.want == ambiguous {
			kind = errs.InvalidParam
		}
		if through != (k.want == passed) || !through && errs.Of(err) != kind {
			t.Errorf("%s: through %v, %v", k.name, through, err)
		}
		if testutil.ToFloat64(w.plugin.verdicts[k.want]) == 0 {
			t.Errorf("%s: not counted as %s", k.name, names[k.want])
		}
		if err != nil && strings.Contains(err.Error(), pub[17:]) {
			t.Errorf("%s: the error shows the secret", k.name)
		}
	}
	w.noSecretsLogged()
}

// TestRights is who may do what with which topic.
func TestRights(t *testing.T) {
	w := newWorld(t)
	for _, k := range []struct {
		app, owner, topic, group string
		op                       plugins.Op
		want                     verdict
	}{
		{"shop", "", "orders", "", plugins.Publish, passed},
		{"shop", "shop", "orders", "", plugins.Publish, passed},
		{"shop", "", "nothing", "", plugins.Publish, unregistered},
		{"bill", "", "orders", "", plugins.Publish, unregistered}, // its own of that name
		{"bill", "shop", "orders", "", plugins.Publish, denied},   // also with a grant to read
		{"bill", "shop", "nothing", "", plugins.Publish, denied},

		{"shop", "shop", "orders", "any", plugins.Subscribe, passed},
		{"shop", "shop", "nothing", "any", plugins.Subscribe, unregistered},
		{"bill", "shop", "orders", "invoices", plugins.Subscribe, passed},
		{"bill", "shop", "orders", "others", plugins.Subscribe, denied},
		{"bill", "shop", "orders", "", plugins.Subscribe, denied},
		{"bill", "shop", "gone", "invoices", plugins.Subscribe, unregistered},
		{"bill", "shop", "gone", "others", plugins.Subscribe, denied},
		{"bill", "shop", "nothing", "invoices", plugins.Subscribe, denied},
		{"bill", "nobody", "nothing", "invoices", plugins.Subscribe, denied},
		{"bill", "", "orders", "invoices", plugins.Subscribe, denied},
		{"audit", "shop", "orders", "any", plugins.Subscribe, passed},
		{"audit", "shop", "orders", "", plugins.Subscribe, passed},
		{"audit", "bill", "own", "any", plugins.Subscribe, denied},
		{"shop", "bill", "own", "any", plugins.Subscribe, denied}, // a grant goes one way

		{"bill", "shop", "orders", "invoices", plugins.Settle, passed},
		{"bill", "shop", "orders", "others", plugins.Settle, denied},
		{"shop", "bill", "own", "any", plugins.Settle, denied},

		{"shop", "shop", "orders", "g", plugins.Settle + 1, otherUse}, // an op that we do not know
	} {
		before := testutil.ToFloat64(w.plugin.verdicts[k.want])
		through, err := w.ask(call(k.op, k.owner, k.topic, k.group, basic(k.app+":"+w.keys[k.app+"/both"])))
		kinds := map[verdict]errs.Kind{denied: errs.Denied, unregistered: errs.UnknownTopic, otherUse: errs.Unauthenticated}
		if through != (k.want == passed) || !through && errs.Of(err) != kinds[k.want] || testutil.ToFloat64(w.plugin.verdicts[k.want]) != before+1 {
			t.Errorf("%+v: through %v, %v", k, through, err)
		}
	}
}

// TestDeniedTellsNothing: an answer about another app's topic is the same whether there is such a topic or not.
func TestDeniedTellsNothing(t *testing.T) {
	w := newWorld(t)
	ask := func() string {
		_, err := w.ask(call(plugins.Subscribe, "audit", "secret", "g", basic("bill:"+w.keys["bill/both"])))
		if errs.Of(err) != errs.Denied {
			t.Fatal(err)
		}
		return err.Error()
	}
	absent := ask()
	w.put(&meta.TopicRecord{App: "audit", Name: "secret", Ver: "v1", Partitions: 1, MaxAttempts: 16})
	if there := ask(); there != absent {
		t.Errorf("absent: %q, there: %q", absent, there)
	}
}

// TestChangesCountAtOnce: each right ends with the change that takes it away.
func TestChangesCountAtOnce(t *testing.T) {
	for _, k := range []struct {
		name   string
		change func(w *world)
		kind   errs.Kind
	}{
		{"key revoked", func(w *world) {
			a := *w.dir.Snapshot().App("bill")
			a.Keys = a.Keys[:2:2]
			w.put(&a)
		}, errs.Unauthenticated},
		{"app disabled", func(w *world) {
			a := *w.dir.Snapshot().App("bill")
			a.Disabled = true
			w.put(&a)
		}, errs.Unauthenticated},
		{"app deleted", func(w *world) { w.delete(meta.ID{Kind: meta.KindApp, Name: "bill"}) }, errs.Unauthenticated},
		{"grant narrowed", func(w *world) { w.grant("orders", "bill", "others") }, errs.Denied},
		{"grant taken", func(w *world) { w.delete(meta.ID{Kind: meta.KindSubscription, Name: "shop.orders.v1.bill"}) }, errs.Denied},
		{"topic deleted", func(w *world) { w.delete(meta.ID{Kind: meta.KindTopic, Name: "shop.orders.v1"}) }, errs.UnknownTopic},
	} {
		w := newWorld(t)
		ask := func() error {
			_, err := w.ask(call(plugins.Subscribe, "shop", "orders", "invoices", basic("bill:"+w.keys["bill/both"])))
			return err
		}
		if err := ask(); err != nil {
			t.Fatal(k.name, err)
		}
		k.change(w)
		if err := ask(); err == nil || errs.Of(err) != k.kind {
			t.Errorf("%s: %v", k.name, err)
		}
	}
}

func (w *world) delete(id meta.ID) {
	w.t.Helper()
	if err := w.dir.Delete(context.Background(), id, ""); err != nil {
		w.t.Fatal(err)
	}
}

// TestNothingKnownLetsNobodyIn: before the first snapshot a good key is as good as none, and the client may try again.
func TestNothingKnownLetsNobodyIn(t *testing.T) {
	w := newWorld(t)
	w.plugin = w.over(meta.NewDirectory(meta.Config{Source: mem.New(), Log: slog.New(slog.DiscardHandler)}))
	through, err := w.ask(call(plugins.Publish, "", "orders", "", basic("shop:"+w.keys["shop/pub"])))
	if through || errs.Of(err) != errs.Unavailable {
		t.Errorf("through %v, %v", through, err)
	}
}

func TestTheErrorOfTheRestIsPassedOn(t *testing.T) {
	w := newWorld(t)
	c := call(plugins.Publish, "", "orders", "", basic("shop:"+w.keys["shop/pub"]))
	err := w.plugin.Wrap(func(context.Context, *plugins.Call) error { return errs.DiskFull })(context.Background(), c)
	if !errors.Is(err, errs.DiskFull) {
		t.Error(err)
	}
}

func BenchmarkJudge(b *testing.B) {
	w := newWorld(b)
	w.plugin.log = slog.New(slog.DiscardHandler)
	for form, head := range forms {
		for name, c := range map[string]*plugins.Call{
			"good":    call(plugins.Publish, "", "orders", "", head(plugins.Publish, "shop", w.keys["shop/pub"])...),
			"unknown": call(plugins.Publish, "", "orders", "", head(plugins.Publish, "shop", "0123456789abcdef"+w.keys["shop/pub"][16:])...),
		} {
			b.Run(form+"/"+name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					c.App = ""
					_, _, _ = w.plugin.judge(b.Context(), c)
				}
			})
		}
	}
}

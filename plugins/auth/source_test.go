package auth

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/plugins"
)

// answers is an issuer's server: what it answers can be changed.
type answers struct {
	*httptest.Server

	handler atomic.Pointer[http.HandlerFunc]
	asked   atomic.Int32
}

func serveKeys(t *testing.T, h http.HandlerFunc) *answers {
	a := &answers{}
	a.handler.Store(&h)
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.asked.Add(1)
		(*a.handler.Load())(w, r)
	}))
	t.Cleanup(a.Close)
	return a
}

func text(b []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(b) }
}

func fetching(t *testing.T, url string) *source {
	t.Helper()
	s, err := newSource(&Issuer{Issuer: idp, JWKS: url, Refresh: time.Minute}, slog.New(slog.DiscardHandler), func() {})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// What a server can answer that is no good leaves the keys from before, and does not take us elsewhere.
func TestFetchingKeys(t *testing.T) {
	elsewhere := serveKeys(t, text(usual()))
	p := somePairs()
	a := serveKeys(t, text(usual()))
	s := fetching(t, a.URL)
	if s.keys() != nil {
		t.Fatal("there are keys before any were read")
	}
	if err := s.read(t.Context()); err != nil || len(s.keys().keys) != 5 {
		t.Fatal(err)
	}
	before := s.keys()
	for name, h := range map[string]http.HandlerFunc{
		"an error":           func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500); _, _ = w.Write(usual()) },
		"a redirect":         func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, http.StatusFound) },
		"no JSON":            text([]byte("<html>")),
		"no keys":            text([]byte(`{"keys":[]}`)),
		"another object":     text([]byte(`{}`)),
		"too much":           text(append(jwks(jwk("rsa", p.other)), strings.Repeat(" ", maxKeyFile)...)),
		"a kid twice":        text(jwks(jwk("rsa", p.other), jwk("rsa", p.rsa))),
		"a key to encrypt":   text(jwks(jwk("rsa", p.other, "use", "enc"))),
		"a weak key":         text([]byte(`{"keys":[{"kty":"RSA","kid":"rsa","n":"` + b64(p.rsa.N.Bytes()[:128]) + `","e":"AQAB"}]}`)),
		"a shared secret":    text([]byte(`{"keys":[{"kty":"oct","kid":"rsa","k":"` + b64(make([]byte, 32)) + `"}]}`)),
		"a private key only": text([]byte(`{"keys":[{"kty":"RSA","kid":"rsa","d":"AQAB"}]}`)),
		"too many":           text(jwks(many(101)...)),
	} {
		a.handler.Store(&h)
		if err := s.read(t.Context()); err == nil || s.keys() != before {
			t.Errorf("%s: %v, keys are others: %v", name, err, s.keys() != before)
		}
	}
	if n := elsewhere.asked.Load(); n != 0 {
		t.Errorf("another server was asked %d times", n)
	}
	h := text(jwks(jwk("new", p.other, "x5u", elsewhere.URL)))
	a.handler.Store(&h)
	if err := s.read(t.Context()); err != nil || len(s.keys().keys) != 1 || elsewhere.asked.Load() != 0 {
		t.Errorf("a key that names a certificate elsewhere: %v, asked %d times", err, elsewhere.asked.Load())
	}
}

func many(n int) (list []map[string]any) {
	for i := range n {
		list = append(list, jwk(fmt.Sprint(i), somePairs().ed))
	}
	return list
}

// Row X40, X3: without keys nobody is let in; a key that is new is found out by a token that names it, and made-up names do not
// have us ask without end.
func TestKeysThatAreNotThereYet(t *testing.T) {
	a := serveKeys(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) })
	w := newWorld(t, fmt.Sprintf("jwt:\n- issuer: %s\n  audience: [%s]\n  algorithms: [RS256]\n  jwks: %s\n", idp, aud, a.URL))
	ask := func(kid string) error {
		_, err := w.ask(call(plugins.Publish, "", "orders", "", bearer(sign(jwt.SigningMethodRS256, somePairs().rsa, claim(), "kid", kid))))
		return err
	}
	if err := ask("rsa"); errs.Of(err) != errs.Unavailable {
		t.Errorf("without keys: %v", err)
	}
	src := w.plugin.tokens.issuers[idp].source
	_ = src.read(t.Context())
	if err := ask("rsa"); errs.Of(err) != errs.Unavailable {
		t.Errorf("with keys that can't be had: %v", err)
	}
	h := text(usual())
	a.handler.Store(&h)
	if err := src.read(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := ask("rsa"); err != nil {
		t.Error(err)
	}
	for i := range 100 {
		if err := ask(fmt.Sprint("made up ", i)); errs.Of(err) != errs.Unauthenticated {
			t.Error(err)
		}
	}
	if n := len(src.ask); n != 1 {
		t.Errorf("%d questions wait", n)
	}
	src.present.Store(&reading{src.keys(), time.Now().Add(-keepKeys - time.Second)})
	if err := ask("rsa"); errs.Of(err) != errs.Unavailable {
		t.Errorf("keys of yesterday: %v", err)
	}
}

// fetches is a server in memory, so that time can be a test's own.
type fetches struct {
	text  []byte
	asked atomic.Int32
	fail  atomic.Bool
}

func (f *fetches) RoundTrip(r *http.Request) (*http.Response, error) {
	f.asked.Add(1)
	rec := httptest.NewRecorder()
	if f.fail.Load() {
		rec.WriteHeader(500)
	}
	_, _ = rec.Write(f.text)
	resp := rec.Result()
	resp.Request = r
	return resp, nil
}

func TestKeysAreReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fetches{text: usual()}
		s := fetching(t, "https://id.example.com/keys")
		s.refresh = 10 * time.Minute
		s.client.Transport = f
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); s.follow(ctx) }()
		defer func() { cancel(); <-ended }()
		count := func(what string, after time.Duration, lo, hi int32) {
			t.Helper()
			before := f.asked.Load()
			<-time.After(after)
			synctest.Wait()
			if n := f.asked.Load() - before; n < lo || n > hi {
				t.Errorf("%s: asked %d times in %v, want %d to %d", what, n, after, lo, hi)
			}
		}
		count("at the start", time.Second, 1, 1)
		count("every 10 minutes", time.Hour, 5, 7)
		go func() {
			for range 600 {
				s.missing()
				<-time.After(time.Second)
			}
		}()
		count("with tokens that are made up", 10*time.Minute, 15, 25)
		f.fail.Store(true)
		count("while it fails", time.Hour, 55, 130)
		if s.keys() == nil {
			t.Error("the keys from before are gone after an hour")
		}
		<-time.After(25 * time.Hour)
		if s.keys() != nil {
			t.Error("keys count that could not be read again for a day")
		}
		f.fail.Store(false)
		<-time.After(2 * time.Minute)
		if s.keys() == nil {
			t.Error("they are back, and not used")
		}
	})
}

// A file is followed too, and what can't be used in it leaves the keys from before.
func TestKeysInAFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := somePairs()
		w := newWorld(t, idpOptions(t, ""))
		w.run()
		where := w.plugin.tokens.issuers[idp].source.where
		old, next := bearer(good("exp", time.Now().Add(time.Hour).Unix())), bearer(sign(jwt.SigningMethodRS256, p.other, claim("exp", time.Now().Add(time.Hour).Unix()), "kid", "next"))
		ask := func(head string) bool {
			through, _ := w.ask(call(plugins.Publish, "", "orders", "", head))
			return through
		}
		write := func(b []byte) {
			if err := os.WriteFile(where, b, 0o600); err != nil {
				t.Fatal(err)
			}
			<-time.After(fileEvery + time.Second)
		}
		if !ask(old) || ask(next) {
			t.Error("not as it is to begin with")
		}
		write([]byte("{"))
		if !ask(old) || !strings.Contains(w.log.String(), "can't be read") {
			t.Error("a broken file has taken the keys away, or is not told of")
		}
		write(jwks(jwk("next", p.other)))
		if ask(old) || !ask(next) {
			t.Error("the file was replaced, and the keys were not")
		}
	})
}

// Every fault of the options is told, and nothing is silently off (X5).
func TestOptions(t *testing.T) {
	const whole = "issuer: https://id.example.com, audience: [kateway], algorithms: [RS256], jwks: /etc/jwks.json"
	change := func(from, to string) string { return "jwt: [{" + strings.Replace(whole, from, to, 1) + "}]" }
	for text, want := range map[string]string{
		change("", ""): "",
		"leeway: 0s":   "",
		"leeway: 61s":  "leeway",
		"leeway: -1s":  "leeway",
		"verify: no":   "verify",
		change("issuer: https://id.example.com, ", ""):                         "issuer must be named",
		change("https://id.example.com", "kateway"):                            "issuer must be named",
		change("audience: [kateway], ", ""):                                    "audience",
		change("[kateway]", "['']"):                                            "audience",
		change("algorithms: [RS256], ", ""):                                    "algorithms",
		change("[RS256]", "[none]"):                                            `"none" is none of`,
		change("[RS256]", "[RS256, HS256]"):                                    "HS256 does not go with jwks",
		change("jwks: /etc/jwks.json", "secret_file: /x"):                      "RS256 does not go with secret_file",
		change("jwks: /etc/jwks.json", "refresh: 1m"):                          "either jwks or secret_file",
		change("jwks:", "secret_file: /x, jwks:"):                              "either jwks or secret_file",
		change("/etc/jwks.json", "http://id.example.com/keys"):                 "https",
		change("/etc/jwks.json", "https://u:p@id.example.com/keys"):            "without user",
		change("/etc/jwks.json", "http://127.0.0.1.evil.example/keys"):         "https",
		change("/etc/jwks.json", "http://127.0.0.1:8080/keys"):                 "",
		change("/etc/jwks.json", "file:///etc/passwd"):                         "https",
		change("jwks:", "refresh: 1s, jwks:"):                                  "refresh",
		"jwt: [{" + whole + "}, {" + whole + "}]":                              "named twice",
		"certificates: [{san: 'dns:a.example', app: shop, ops: [pub]}]":        "",
		"certificates: [{san: 'a.example', app: shop}]":                        "san",
		"certificates: [{san: 'cn:a', app: shop}]":                             "san",
		"certificates: [{san: 'dns:*.example', app: shop}]":                    "no patterns",
		"certificates: [{san: 'dns:a', app: 'a.b'}]":                           "app",
		"certificates: [{san: 'dns:a', app: shop, ops: [admin]}]":              "admin",
		"certificates: [{san: 'dns:a', app: shop, topics: [orders]}]":          "topics",
		"certificates: [{san: 'dns:a', app: shop}, {san: 'dns:a', app: bill}]": "named twice",
		"certificates: [{san: 'dns:a', app: shop, prefix: true}]":              "prefix",
	} {
		_, err := Kind().Read(plugins.ParseOptions(text))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q in it", text, err, want)
		}
	}
}

// A start with a secret that can be guessed, or with files that are not there, fails (X2).
func TestFilesThatCannotBeUsed(t *testing.T) {
	const hs = "jwt: [{issuer: a, audience: [b], algorithms: [HS256], secret_file: %s}]"
	const rs = "jwt: [{issuer: a, audience: [b], algorithms: [RS256], jwks: %s}]"
	for name, k := range map[string]struct{ format, file, want string }{
		"empty":             {hs, writeTo(t, "s", nil), "can be guessed"},
		"31 bytes":          {hs, writeTo(t, "s", []byte(strings.Repeat("x", 31)+"\n\n\n")), "can be guessed"},
		"no secret":         {hs, "/nowhere", "no such file"},
		"no keys":           {rs, "/nowhere", "no such file"},
		"keys that are not": {rs, writeTo(t, "s", []byte("{}")), "no key"},
		"enormous":          {rs, writeTo(t, "s", make([]byte, maxKeyFile+1)), "more than"},
	} {
		cfg := options(t, fmt.Sprintf(k.format, k.file))
		if _, err := New(cfg, plugins.Env{Log: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), k.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A key is for the algorithms of its sort, size and own word, whatever the library would take.
func TestWhatAKeyIsFor(t *testing.T) {
	set, err := parseKeySet(usual())
	if err != nil {
		t.Fatal(err)
	}
	for kid, algs := range map[string]string{"rsa": "RS256 RS384 RS512 PS256 PS384 PS512", "ec": "ES256", "ec384": "ES384", "ed": "EdDSA", "rs512": "RS512"} {
		for _, alg := range append(append(public(), shared()...), "none", "") {
			k, _ := set.find(kid)
			if want := alg != "" && slices.Contains(strings.Fields(algs), alg); k.fits(alg) != want {
				t.Errorf("%s for %q: %v", kid, alg, !want)
			}
		}
	}
}

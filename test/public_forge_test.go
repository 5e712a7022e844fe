package test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// forge makes tokens: those of three issuers that the gateway trusts, and such as pretend to be.
type forge struct {
	dir        string
	one, two   *rsa.PrivateKey // of two issuers, both under the key id "main"
	own        *rsa.PrivateKey // nobody's
	shared     []byte          // of the third issuer
	listener   net.Listener    // where no key is to be looked for
	lookedAt   atomic.Int64    // connections to it
	oneAsBytes []byte          // the public key of the first as PEM
}

const (
	issuerOne    = "https://one.example"
	issuerTwo    = "https://two.example"
	issuerShared = "https://three.example"
)

func newForge(t *testing.T, dir string) *forge {
	t.Helper()
	f := &forge{dir: dir, shared: []byte("canary-shared-secret-0123456789abcdef")}
	var err error
	for _, k := range []**rsa.PrivateKey{&f.one, &f.two, &f.own} {
		if *k, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
			t.Fatal(err)
		}
	}
	der, err := x509.MarshalPKIXPublicKey(f.one.Public())
	if err != nil {
		t.Fatal(err)
	}
	f.oneAsBytes = pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	for name, b := range map[string][]byte{"one.json": jwksOf(f.one), "two.json": jwksOf(f.two), "three.secret": f.shared} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if f.listener, err = net.Listen("tcp", "0.0.0.0:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.listener.Close() })
	go func() {
		for {
			conn, err := f.listener.Accept()
			if err != nil {
				return
			}
			f.lookedAt.Add(1)
			conn.Close()
		}
	}()
	return f
}

// options are the gateway's, as they stand in its file.
func (f *forge) options() string {
	return fmt.Sprintf(`
plugins:
- audit
- auth:
    leeway: 10s
    jwt:
    - {issuer: %s, audience: [kateway], algorithms: [RS256], jwks: %s}
    - {issuer: %s, audience: [kateway], algorithms: [RS256], jwks: %s}
    - {issuer: %s, audience: [kateway], algorithms: [HS256], secret_file: %s}
- quota:
    default: {streams: 50}
- guard:
    block: 1m
`, issuerOne, filepath.Join(f.dir, "one.json"), issuerTwo, filepath.Join(f.dir, "two.json"), issuerShared, filepath.Join(f.dir, "three.secret"))
}

func jwksOf(k *rsa.PrivateKey) []byte {
	b, err := json.Marshal(map[string]any{"keys": []any{jwkOf(k)}})
	if err != nil {
		panic(err)
	}
	return b
}

func jwkOf(k *rsa.PrivateKey) map[string]any {
	b64 := base64.RawURLEncoding
	return map[string]any{"kty": "RSA", "kid": "main", "alg": "RS256", "use": "sig", "n": b64.EncodeToString(k.N.Bytes()), "e": b64.EncodeToString(big.NewInt(int64(k.E)).Bytes())}
}

// shape is a token: what differs from a good one of the first issuer. nil takes a field away.
type shape struct {
	method jwt.SigningMethod
	key    any
	head   map[string]any
	claims map[string]any
}

// make signs it.
func (f *forge) make(app string, s shape) string {
	method, key := s.method, s.key
	if method == nil {
		method, key = jwt.SigningMethodRS256, f.one
		if s.key != nil {
			key = s.key
		}
	}
	claims := jwt.MapClaims{"iss": issuerOne, "aud": "kateway", "sub": app, "exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix()}
	head := map[string]any{"typ": "JWT", "alg": method.Alg(), "kid": "main"}
	for _, p := range []struct{ into, from map[string]any }{{claims, s.claims}, {head, s.head}} {
		maps.Copy(p.into, p.from)
		maps.DeleteFunc(p.into, func(_ string, v any) bool { return v == nil })
	}
	tok := &jwt.Token{Method: method, Header: head, Claims: claims}
	text, err := tok.SignedString(key)
	if err != nil {
		panic(err)
	}
	return text
}

// unsigned is one that says this of how it is signed, with or without the signature of a good one.
func (f *forge) unsigned(app, alg string, signature bool) string {
	parts := strings.Split(f.make(app, shape{}), ".")
	head, err := json.Marshal(map[string]any{"typ": "JWT", "alg": alg, "kid": "main"})
	if err != nil {
		panic(err)
	}
	if !signature {
		parts[2] = ""
	}
	return base64.RawURLEncoding.EncodeToString(head) + "." + parts[1] + "." + parts[2]
}

// tokens are what is wrong with tokens, row by row.
func tokenAttempts() []attempt {
	var list []attempt
	add := func(row, name, want string, token func(f *forge, app string) string) {
		list = append(list, attempt{row: row, name: name, want: want, token: token})
	}
	shaped := func(row, name, want string, s func(f *forge) shape) {
		add(row, name, want, func(f *forge, app string) string { return f.make(app, s(f)) })
	}
	const no = "401 unauthenticated"
	for _, alg := range []string{"none", "None", "NONE", "nOnE", "", "RS256 "} {
		add("X1", fmt.Sprintf("alg %q, no signature", alg), no, func(f *forge, app string) string { return f.unsigned(app, alg, false) })
		add("X1", fmt.Sprintf("alg %q, signed", alg), no, func(f *forge, app string) string { return f.unsigned(app, alg, true) })
	}
	add("X1", "signature taken away", no, func(f *forge, app string) string { return f.unsigned(app, "RS256", false) })
	hs := func(key func(f *forge) []byte) func(f *forge) shape {
		return func(f *forge) shape { return shape{method: jwt.SigningMethodHS256, key: key(f)} }
	}
	shaped("X2", "signed with the public key as secret", no, hs(func(f *forge) []byte { return f.oneAsBytes }))
	shaped("X2", "signed with an empty secret", no, hs(func(*forge) []byte { return []byte{} }))
	shaped("X2", "signed with another issuer's secret", no, hs(func(f *forge) []byte { return f.shared }))
	for _, kid := range []any{"../../../../etc/passwd", "/dev/null", "' OR '1'='1", "main\x00", strings.Repeat("k", 5000), 7, []string{"main"}, map[string]any{"a": 1}} {
		shaped("X3", fmt.Sprintf("kid %.20v", kid), no, func(*forge) shape { return shape{head: map[string]any{"kid": kid}} })
	}
	for _, name := range []string{"jku", "x5u"} {
		shaped("X3", name, no, func(f *forge) shape {
			return shape{key: f.own, head: map[string]any{name: "http://" + f.listener.Addr().String() + "/keys"}}
		})
	}
	shaped("X3", "jwk", no, func(f *forge) shape { return shape{key: f.own, head: map[string]any{"jwk": jwkOf(f.own)}} })
	for _, name := range []string{"jwk", "x5c", "crit", "zip", "b64"} {
		shaped("X3", name+", well signed", no, func(*forge) shape { return shape{head: map[string]any{name: []string{"exp"}}} })
	}
	two := map[string]any{"iss": issuerTwo}
	shaped("X4", "each issuer's own key", in, func(f *forge) shape { return shape{key: f.two, claims: two} })
	shaped("X4", "another issuer's key of the same id", no, func(f *forge) shape { return shape{key: f.one, claims: two} })
	shaped("X4", "the same the other way round", no, func(f *forge) shape { return shape{key: f.two} })
	shaped("X6", "good", in, func(*forge) shape { return shape{} })
	for name, claims := range map[string]map[string]any{
		"no exp": {"exp": nil}, "exp is text": {"exp": "2099"}, "no iss": {"iss": nil}, "another iss": {"iss": "https://one.example/"},
		"no aud": {"aud": nil}, "another aud": {"aud": "kateways"}, "no app": {"sub": nil}, "an app that is not there": {"sub": "nobody"},
	} {
		shaped("X6", name, no, func(*forge) shape { return shape{claims: claims} })
	}
	for name, at := range map[string]struct {
		claim string
		by    time.Duration
	}{"expired": {"exp", -time.Minute}, "not yet": {"nbf", time.Minute}, "of the future": {"iat", time.Minute}} {
		shaped("X6", name, no, func(*forge) shape {
			return shape{claims: map[string]any{at.claim: time.Now().Add(at.by).Unix()}}
		})
	}
	shaped("X6", "another typ", no, func(*forge) shape { return shape{head: map[string]any{"typ": "kateway"}} })
	add("X8", "dots", no, func(*forge, string) string { return "a" + strings.Repeat(".", 20_000) })
	add("X8", "deep", no, func(f *forge, app string) string {
		parts := strings.Split(f.make(app, shape{}), ".")
		deep := strings.Repeat("[", 5000)
		return base64.RawURLEncoding.EncodeToString([]byte(deep)) + "." + parts[1] + "." + parts[2]
	})
	add("X8", "five parts", no, func(*forge, string) string { return "a.b.c.d.e" })
	add("X12", "a token of the gateway, made by somebody else", no, func(f *forge, app string) string {
		return f.make(app, shape{method: jwt.SigningMethodHS256, key: f.shared, head: map[string]any{"typ": "kateway"}, claims: map[string]any{
			"iss": "kateway", "op": "sub", "topic": app + "/orders/v1", "group": "g",
		}})
	})
	return list
}

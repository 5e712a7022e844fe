package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/plugins"
)

const idp, aud = "https://id.example.com", "kateway"

// pairs are keys to sign with, by the names that they have in the issuer's JWKS. Making RSA keys takes a while.
type pairs struct {
	rsa   *rsa.PrivateKey
	ec    *ecdsa.PrivateKey
	ec384 *ecdsa.PrivateKey
	ed    ed25519.PrivateKey
	other *rsa.PrivateKey // nobody's
}

var somePairs = sync.OnceValue(func() *pairs {
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	var p pairs
	var err error
	p.rsa, err = rsa.GenerateKey(rand.Reader, 2048)
	must(err)
	p.other, err = rsa.GenerateKey(rand.Reader, 2048)
	must(err)
	p.ec, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	p.ec384, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	must(err)
	_, p.ed, err = ed25519.GenerateKey(rand.Reader)
	must(err)
	return &p
})

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// jwk is the public half as a JWK.
func jwk(kid string, key crypto.Signer, more ...string) map[string]any {
	m := map[string]any{"kid": kid, "use": "sig"}
	switch k := key.Public().(type) {
	case *rsa.PublicKey:
		m["kty"], m["n"], m["e"] = "RSA", b64(k.N.Bytes()), b64(big.NewInt(int64(k.E)).Bytes())
	case *ecdsa.PublicKey:
		point, _ := k.Bytes()
		half := (len(point) - 1) / 2
		m["kty"], m["crv"] = "EC", k.Params().Name
		m["x"], m["y"] = b64(point[1:1+half]), b64(point[1+half:])
	case ed25519.PublicKey:
		m["kty"], m["crv"], m["x"] = "OKP", "Ed25519", b64(k)
	}
	for i := 0; i < len(more); i += 2 {
		m[more[i]] = more[i+1]
	}
	return m
}

func jwks(keys ...map[string]any) []byte {
	b, err := json.Marshal(map[string]any{"keys": keys})
	if err != nil {
		panic(err)
	}
	return b
}

func usual() []byte {
	p := somePairs()
	return jwks(jwk("rsa", p.rsa), jwk("ec", p.ec), jwk("ec384", p.ec384), jwk("ed", p.ed), jwk("rs512", p.rsa, "alg", "RS512"))
}

func writeTo(t testing.TB, name string, b []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// idpOptions has the usual issuer, and what is given behind it.
func idpOptions(t testing.TB, more string) string {
	return fmt.Sprintf("jwt:\n- issuer: %s\n  audience: [%s]\n  algorithms: [RS256, RS512, PS256, ES256, ES384, EdDSA]\n  jwks: %s\n%s", idp, aud, writeTo(t, "jwks.json", usual()), more)
}

// claim has what a good token for shop says, changed by pairs of name and value; a nil value leaves it out.
func claim(changes ...any) jwt.MapClaims {
	now := time.Now()
	c := jwt.MapClaims{"iss": idp, "aud": aud, "sub": "shop", "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(5 * time.Minute).Unix()}
	for i := 0; i < len(changes); i += 2 {
		name := changes[i].(string)
		if changes[i+1] == nil {
			delete(c, name)
		} else {
			c[name] = changes[i+1]
		}
	}
	return c
}

// sign makes a token with a header of these changes.
func sign(method jwt.SigningMethod, key any, c jwt.MapClaims, header ...any) string {
	tok := jwt.NewWithClaims(method, c)
	for i := 0; i < len(header); i += 2 {
		name := header[i].(string)
		if header[i+1] == nil {
			delete(tok.Header, name)
		} else {
			tok.Header[name] = header[i+1]
		}
	}
	s, err := tok.SignedString(key)
	if err != nil {
		panic(err)
	}
	return s
}

func good(changes ...any) string {
	return sign(jwt.SigningMethodRS256, somePairs().rsa, claim(changes...), "kid", "rsa")
}

// parts makes a token of these parts by hand.
func parts(header, claims string, signature []byte) string {
	return b64([]byte(header)) + "." + b64([]byte(claims)) + "." + b64(signature)
}

// tokenCase is a token, and what is to become of it.
type tokenCase struct {
	name, token string
	want        verdict
}

// goodTokens are those that are let in.
func goodTokens() []tokenCase {
	p := somePairs()
	now := time.Now()
	return []tokenCase{
		{"RS256", good(), passed},
		{"RS512, by a key that is for it", sign(jwt.SigningMethodRS512, p.rsa, claim(), "kid", "rs512"), passed},
		{"PS256", sign(jwt.SigningMethodPS256, p.rsa, claim(), "kid", "rsa"), passed},
		{"ES256", sign(jwt.SigningMethodES256, p.ec, claim(), "kid", "ec"), passed},
		{"ES384", sign(jwt.SigningMethodES384, p.ec384, claim(), "kid", "ec384"), passed},
		{"EdDSA", sign(jwt.SigningMethodEdDSA, p.ed, claim(), "kid", "ed"), passed},
		{"typ of RFC 9068", sign(jwt.SigningMethodRS256, p.rsa, claim(), "kid", "rsa", "typ", "AT+jwt"), passed},
		{"several audiences", good("aud", []string{"other", aud}), passed},
		{"just within the leeway", good("exp", now.Add(-20*time.Second).Unix()), passed},
		{"begins within the leeway", good("nbf", now.Add(20*time.Second).Unix()), passed},
	}
}

// unsignedTokens are row X1.
func unsignedTokens() []tokenCase {
	_, body, _ := strings.Cut(good(), ".")
	body, signature, _ := strings.Cut(body, ".")
	raw := func(header string) string { return b64([]byte(header)) + "." + body + "." + signature }
	plain, _ := json.Marshal(claim())
	return []tokenCase{
		{"none", sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, claim()), badToken},
		{"None", parts(`{"alg":"None","typ":"JWT"}`, string(plain), nil), badToken},
		{"NONE", parts(`{"alg":"NONE","typ":"JWT"}`, string(plain), nil), badToken},
		{"no alg", parts(`{"typ":"JWT","kid":"rsa"}`, string(plain), nil), badToken},
		{"empty alg", parts(`{"alg":"","typ":"JWT","kid":"rsa"}`, string(plain), nil), badToken},
		{"alg is no text", parts(`{"alg":1,"typ":"JWT","kid":"rsa"}`, string(plain), nil), badToken},
		{"signature stripped", good()[:strings.LastIndexByte(good(), '.')+1], badToken},
		{"none with the signature of another", raw(`{"alg":"none","typ":"JWT","kid":"rsa"}`), badToken},
		{"alg twice", raw(`{"alg":"RS256","alg":"none","typ":"JWT","kid":"rsa"}`), badToken},
		{"a byte of the signature", flipAt(good(), -20), badToken},
		{"a byte of the claims", flipAt(good(), strings.IndexByte(good(), '.')+10), badToken},
	}
}

// confusedTokens are row X2.
func confusedTokens() []tokenCase {
	p := somePairs()
	pubPEM, _ := x509.MarshalPKIXPublicKey(p.rsa.Public())
	asPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: pubPEM})
	return []tokenCase{
		{"HS256 with the public key, PEM", sign(jwt.SigningMethodHS256, asPEM, claim(), "kid", "rsa"), badToken},
		{"HS256 with the public key, DER", sign(jwt.SigningMethodHS256, pubPEM, claim(), "kid", "rsa"), badToken},
		{"HS256 with the modulus", sign(jwt.SigningMethodHS256, p.rsa.N.Bytes(), claim(), "kid", "rsa"), badToken},
		{"HS256 with nothing", sign(jwt.SigningMethodHS256, []byte{}, claim(), "kid", "rsa"), badToken},
		{"an algorithm that is not configured", sign(jwt.SigningMethodRS384, p.rsa, claim(), "kid", "rsa"), badToken},
		{"a key that is for another algorithm", sign(jwt.SigningMethodRS256, p.rsa, claim(), "kid", "rs512"), badToken},
		{"another curve", sign(jwt.SigningMethodES256, p.ec, claim(), "kid", "ec384"), badToken},
		{"a key of another sort", sign(jwt.SigningMethodRS256, p.rsa, claim(), "kid", "ec"), badToken},
		{"nobody's key", sign(jwt.SigningMethodRS256, p.other, claim(), "kid", "rsa"), badToken},
	}
}

// injectedTokens are row X3: what the header says.
func injectedTokens() []tokenCase {
	p := somePairs()
	return []tokenCase{
		{"no kid, of several keys", sign(jwt.SigningMethodRS256, p.rsa, claim()), badToken},
		{"kid that is unknown", sign(jwt.SigningMethodRS256, p.rsa, claim(), "kid", "RSA"), badToken},
		{"kid that is a path", sign(jwt.SigningMethodRS256, p.rsa, claim(), "kid", "../../../../dev/null"), badToken},
		{"kid that is a URL", sign(jwt.SigningMethodRS256, p.rsa, claim(), "kid", "http://127.0.0.1:1/jwks"), badToken},
		{"kid that is a query", sign(jwt.SigningMethodRS256, p.rsa, claim(), "kid", "x' UNION SELECT 'rsa"), badToken},
		{"kid with a NUL", sign(jwt.SigningMethodRS256, p.rsa, claim(), "kid", "rsa\x00"), badToken},
		{"kid that is no text", sign(jwt.SigningMethodRS256, p.rsa, claim(), "kid", 1), badToken},
		{"kid of 1 MB", sign(jwt.SigningMethodRS256, p.rsa, claim(), "kid", strings.Repeat("k", 1<<20)), malformed},
		{"jku", sign(jwt.SigningMethodRS256, p.rsa, claim(), "kid", "rsa", "jku", "http://127.0.0.1:1/jwks"), badToken},
		{"x5u", sign(jwt.SigningMethodRS256, p.rsa, claim(), "kid", "rsa", "x5u", "http://127.0.0.1:1/"), badToken},
		{"x5c", sign(jwt.SigningMethodRS256, p.rsa, claim(), "kid", "rsa", "x5c", []string{b64([]byte("certificate"))}), badToken},
		{"jwk", sign(jwt.SigningMethodRS256, p.other, claim(), "kid", "rsa", "jwk", jwk("rsa", p.other)), badToken},
		{"crit", sign(jwt.SigningMethodRS256, p.rsa, claim(), "kid", "rsa", "crit", []string{"exp"}), badToken},
		{"empty crit", sign(jwt.SigningMethodRS256, p.rsa, claim(), "kid", "rsa", "crit", []string{}), badToken},
		{"zip", sign(jwt.SigningMethodRS256, p.rsa, claim(), "kid", "rsa", "zip", "DEF"), badToken},
	}
}

// untimelyTokens are row X6: time, issuer, audience, type.
func untimelyTokens() []tokenCase {
	p := somePairs()
	now := time.Now()
	return []tokenCase{
		{"expired", good("exp", now.Add(-time.Minute).Unix()), expired},
		{"no exp", good("exp", nil), badToken},
		{"exp is no number", good("exp", "tomorrow"), badToken},
		{"not yet", good("nbf", now.Add(time.Minute).Unix()), badToken},
		{"made in the future", good("iat", now.Add(time.Minute).Unix()), badToken},
		{"no iss", good("iss", nil), badToken},
		{"another iss", good("iss", "https://evil.example.com"), badToken},
		{"iss with a slash more", good("iss", idp+"/"), badToken},
		{"iss is no text", good("iss", []string{idp}), badToken},
		{"no aud", good("aud", nil), badToken},
		{"another aud", good("aud", "other"), badToken},
		{"aud in other letters", good("aud", "Kateway"), badToken},
		{"no typ", sign(jwt.SigningMethodRS256, p.rsa, claim(), "kid", "rsa", "typ", nil), badToken},
		{"typ of an ID token of somebody's", sign(jwt.SigningMethodRS256, p.rsa, claim(), "kid", "rsa", "typ", "id+jwt"), badToken},
		{"typ of the gateways' own", sign(jwt.SigningMethodRS256, p.rsa, claim(), "kid", "rsa", "typ", ownType), badToken},
		{"issuer of the gateways' own", good("iss", tokenIssuer), badToken},
	}
}

// tokenBombs are row X8.
func tokenBombs() []tokenCase {
	return []tokenCase{
		{"10 MB of dots", strings.Repeat(".", 10<<20), malformed},
		{"four parts", good() + ".x", malformed},
		{"five parts, as JWE", good() + ".x.y", malformed},
		{"8 KiB and a byte", good() + strings.Repeat("A", 8<<10), malformed},
		{"deep JSON in the header", parts(strings.Repeat("[", 2000)+strings.Repeat("]", 2000), "{}", nil), badToken},
		{"deep JSON in the claims", parts(`{"alg":"RS256","typ":"JWT","kid":"rsa"}`, strings.Repeat(`{"a":`, 800)+"1"+strings.Repeat("}", 800), nil), badToken},
		{"no JSON", parts("x", "y", nil), badToken},
		{"no base64", "a.b!.c", badToken},
		{"padding", good() + "==", badToken},
	}
}

// strangersTokens speak for nobody that there is.
func strangersTokens() []tokenCase {
	return []tokenCase{
		{"no sub", good("sub", nil), badToken},
		{"empty sub", good("sub", ""), badToken},
		{"sub is no text", good("sub", 7), badToken},
		{"an app that is not there", good("sub", "nobody"), otherApp},
		{"an app in other letters", good("sub", "Shop"), otherApp},
		{"an app that is disabled", good("sub", "off"), disabled},
	}
}

// TestEveryTokenWithEveryFault is the matrix of what can be wrong with a token; each is asked for by every op.
func TestEveryTokenWithEveryFault(t *testing.T) {
	w := newWorld(t, idpOptions(t, ""))
	for _, k := range slices.Concat(goodTokens(), unsignedTokens(), confusedTokens(), injectedTokens(), untimelyTokens(), tokenBombs(), strangersTokens()) {
		for _, op := range []plugins.Op{plugins.Publish, plugins.Subscribe, plugins.Settle} {
			c := call(op, "shop", "orders", "g", "Authorization: Bearer "+k.token)
			_, v, err := w.plugin.judge(t.Context(), c)
			if v != k.want || (err == nil) != (v == passed) {
				t.Errorf("%s, op %d: %s, %v; want %s", k.name, op, names[v], err, names[k.want])
			}
			if err != nil && (!errors.Is(err, errs.Unauthenticated) || err.Error() != errWho.Error() || c.App != "") {
				t.Errorf("%s: %v, app %q", k.name, err, c.App)
			}
			if err == nil && (c.App != "shop" || c.KeyID != "" || c.Expires.IsZero()) {
				t.Errorf("%s: %+v", k.name, c)
			}
		}
	}
	if log := w.log.String(); strings.Contains(log, "eyJ") {
		t.Error("a part of a token was logged")
	}
}

func flipAt(s string, i int) string {
	if i < 0 {
		i += len(s)
	}
	b := []byte(s)
	if b[i] == 'A' {
		b[i] = 'B'
	} else {
		b[i] = 'A'
	}
	return string(b)
}

// TestTokenIsTheSameEverywhere: whoever claims to be another app than the token says is refused, in each form.
func TestTokenIsTheSameEverywhere(t *testing.T) {
	w := newWorld(t, idpOptions(t, ""))
	for form, head := range forms {
		for app, want := range map[string]bool{"shop": true, "bill": form == "bearer"} {
			through, err := w.ask(call(plugins.Publish, "", "orders", "", head(plugins.Publish, app, good())...))
			if through != want {
				t.Errorf("%s as %s: through %v, %v", form, app, through, err)
			}
		}
	}
}

// X4: an issuer is not asked about another's keys, though they have the same name.
func TestTwoIssuersWithTheSameKid(t *testing.T) {
	p := somePairs()
	const other = "https://other.example.com"
	w := newWorld(t, idpOptions(t, fmt.Sprintf("- issuer: %s\n  audience: [%s]\n  algorithms: [RS256]\n  jwks: %s\n", other, aud, writeTo(t, "other.json", jwks(jwk("rsa", p.other))))))
	for _, k := range []struct {
		iss  string
		key  *rsa.PrivateKey
		good bool
	}{{idp, p.rsa, true}, {other, p.other, true}, {idp, p.other, false}, {other, p.rsa, false}, {idp, p.rsa, true}, {other, p.other, true}} {
		through, _ := w.ask(call(plugins.Publish, "", "orders", "", "Authorization: Bearer "+sign(jwt.SigningMethodRS256, k.key, claim("iss", k.iss), "kid", "rsa")))
		if through != k.good {
			t.Errorf("%+v: through %v", k.iss, through)
		}
	}
}

func TestSharedSecret(t *testing.T) {
	secret := strings.Repeat("k", 32)
	w := newWorld(t, fmt.Sprintf("jwt:\n- issuer: %s\n  audience: [%s]\n  algorithms: [HS256]\n  secret_file: %s\n", idp, aud, writeTo(t, "secret", []byte(secret+"\n"))))
	for _, k := range []struct {
		name   string
		method jwt.SigningMethod
		key    string
		good   bool
	}{
		{"good", jwt.SigningMethodHS256, secret, true}, {"with the line end", jwt.SigningMethodHS256, secret + "\n", false},
		{"another algorithm", jwt.SigningMethodHS512, secret, false}, {"nothing", jwt.SigningMethodHS256, "", false},
	} {
		if through, _ := w.ask(call(plugins.Publish, "", "orders", "", "Authorization: Bearer "+sign(k.method, []byte(k.key), claim()))); through != k.good {
			t.Errorf("%s: through %v", k.name, through)
		}
	}
}

// What a token says that it may is less than what its app may.
func TestTokensThatMayLess(t *testing.T) {
	w := newWorld(t, idpOptions(t, "  app_claim: client\n  ops_claim: scope\n  topics_claim: topics\n  groups_claim: groups\n"))
	all := []any{"client", "shop", "scope", "pub sub", "topics", []string{"shop/orders/v1"}, "groups", []string{"g"}}
	for _, k := range []struct {
		name          string
		change        []any
		pub, sub, not bool // not: not even known who it is
	}{
		{"all", nil, true, true, false},
		{"pub only", []any{"scope", "pub openid"}, true, false, false},
		{"sub only, a list", []any{"scope", []string{"sub"}}, false, true, false},
		{"no scope", []any{"scope", nil}, false, false, false},
		{"no topics", []any{"topics", nil}, false, false, false},
		{"another topic", []any{"topics", []string{"shop/orders/v2"}}, false, false, false},
		{"a topic that begins the same", []any{"topics", []string{"shop/orders/v", "shop/orders"}}, false, false, false},
		{"another group", []any{"groups", []string{"h"}}, true, false, false},
		{"no groups", []any{"groups", nil}, true, false, false},
		{"another app", []any{"client", "bill"}, false, false, false},
		{"sub is not asked", []any{"client", nil}, false, false, true},
		{"scope is a number", []any{"scope", 1}, false, false, true},
		{"topics has a number", []any{"topics", []any{1}}, false, false, true},
		{"topics without end", []any{"topics", strings.Fields(strings.Repeat("a ", 101))}, false, false, true},
	} {
		tok := "Authorization: Bearer " + good(append(append([]any{}, all...), k.change...)...)
		pub, pubErr := w.ask(call(plugins.Publish, "shop", "orders", "", tok))
		sub, subErr := w.ask(call(plugins.Subscribe, "shop", "orders", "g", tok))
		settle, _ := w.ask(call(plugins.Settle, "shop", "orders", "g", tok))
		if pub != k.pub || sub != k.sub || settle != k.sub {
			t.Errorf("%s: pub %v, sub %v, settle %v", k.name, pub, sub, settle)
		}
		for _, err := range []error{pubErr, subErr} {
			if want := map[bool]errs.Kind{true: errs.Unauthenticated, false: errs.Denied}[k.not]; err != nil && errs.Of(err) != want {
				t.Errorf("%s: %v", k.name, err)
			}
		}
	}
}

// A token that was verified is not verified again, and is forgotten when there are too many; what is known of it changes nothing
// about its end, nor about whether its app may.
func TestTokensAreRemembered(t *testing.T) {
	w := newWorld(t, idpOptions(t, ""))
	tok := good()
	ask := func() error {
		_, err := w.ask(call(plugins.Publish, "", "orders", "", "Authorization: Bearer "+tok))
		return err
	}
	for range 3 {
		if err := ask(); err != nil {
			t.Fatal(err)
		}
	}
	if n := w.plugin.tokens.cache.size(); n != 1 {
		t.Errorf("%d tokens are remembered", n)
	}
	for range 50 {
		_, _ = w.ask(call(plugins.Publish, "", "orders", "", "Authorization: Bearer "+flipAt(tok, -20)))
	}
	if n := w.plugin.tokens.cache.size(); n != 1 {
		t.Errorf("bad tokens are remembered: %d", n)
	}
	a := *w.dir.Snapshot().App("shop")
	a.Disabled = true
	w.put(&a)
	if err := ask(); errs.Of(err) != errs.Unauthenticated {
		t.Error(err)
	}
}

func TestCacheIsBounded(t *testing.T) {
	var c cache
	tok := &token{identity: identity{expires: time.Now().Add(time.Hour)}}
	var id [32]byte
	for i := range 5 * cacheShards * shardTokens {
		id[0], id[1], id[2], id[3] = byte(i), byte(i>>8), byte(i>>16), byte(i>>24)
		c.put(id, tok)
	}
	if n := c.size(); n > cacheShards*shardTokens || n < cacheShards*shardTokens/2 {
		t.Errorf("%d are kept", n)
	}
	c.put(id, &token{identity: identity{expires: time.Now()}})
	if c.get(id) != nil {
		t.Error("an expired token is good")
	}
}

func BenchmarkToken(b *testing.B) {
	w := newWorld(b, idpOptions(b, ""))
	for name, tok := range map[string]string{"RS256": good(), "ES256": sign(jwt.SigningMethodES256, somePairs().ec, claim(), "kid", "ec")} {
		c := call(plugins.Publish, "", "orders", "", "Authorization: Bearer "+tok)
		b.Run(name+"/known", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _, _ = w.plugin.judge(b.Context(), c)
			}
		})
		b.Run(name+"/new", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				w.plugin.tokens.cache = cache{}
				_, _, _ = w.plugin.judge(b.Context(), c)
			}
		})
	}
}

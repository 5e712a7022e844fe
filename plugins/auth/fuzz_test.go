package auth

import (
	"bytes"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"github.com/kateway/kateway/plugins"
)

// FuzzToken: no bytes are a token but those that were signed with our key.
func FuzzToken(f *testing.F) {
	secret := bytes.Repeat([]byte("s"), 32)
	tok, err := newTokens(&Options{}, plugins.Env{Log: slog.New(slog.DiscardHandler), Secrets: func() [][]byte { return [][]byte{secret} }}, func() {})
	if err != nil {
		f.Fatal(err)
	}
	mint := func(c jwt.MapClaims) string {
		return sign(jwt.SigningMethodHS256, secret, c, "kid", ownKid(secret), "typ", ownType)
	}
	f.Add(mint(claim("iss", tokenIssuer)))
	f.Add(mint(claim("iss", 7, "exp", "x", "aud", []any{1})))
	f.Add(parts(`{"alg":"none"}`, `{"iss":"kateway"}`, nil))
	f.Add(parts(`{"alg":"HS256","kid":"`+ownKid(secret)+`","typ":"kateway","crit":["x"]}`, `{"iss":"`+tokenIssuer+`","exp":1e999}`, make([]byte, 32)))
	f.Add(strings.Repeat(".", 100))
	f.Fuzz(func(t *testing.T, s string) {
		if _, err := tok.verify(s); err != nil {
			return
		}
		at := strings.LastIndexByte(s, '.')
		if err := jwt.SigningMethodHS256.Verify(s[:at], mustBase64(t, s[at+1:]), secret); err != nil {
			t.Fatalf("%q is taken: %v", s, err)
		}
	})
}

func mustBase64(t *testing.T, s string) []byte {
	b, err := jwt.NewParser(jwt.WithStrictDecoding()).DecodeSegment(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// FuzzKeySet: whatever an issuer serves is refused or has keys that can verify, none of them weak.
func FuzzKeySet(f *testing.F) {
	f.Add(usual())
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"AQ","e":"AQAB","kid":"x"},{"kty":"oct","k":"AA"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA"},{"kty":"OKP","crv":"Ed25519","x":"AA"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		set, err := parseKeySet(text)
		if err != nil {
			return
		}
		for kid, k := range set.keys {
			if k.key == nil || len(set.keys) > maxKeys {
				t.Fatalf("key %q of %s", kid, text)
			}
			for _, alg := range append(public(), shared()...) {
				if k.fits(alg) && strings.HasPrefix(alg, "HS") {
					t.Fatalf("a public key for %s", alg)
				}
			}
		}
	})
}

// FuzzCredentials: headers of any bytes say who calls, or nothing.
func FuzzCredentials(f *testing.F) {
	f.Add("shop", "Basic c2hvcDprZXk=", "", true)
	f.Add("", "Bearer a.b.c", "", false)
	f.Add("a", "basic  %%%", "k", false)
	f.Fuzz(func(t *testing.T, app, authorization, key string, publish bool) {
		c := &plugins.Call{Op: plugins.Subscribe, Header: http.Header{"Appid": {app}, "Authorization": {authorization}, "Subkey": {key}, "Pubkey": {key}}}
		if publish {
			c.Op = plugins.Publish
		}
		shown, err := read(c)
		if err == nil && shown.secret != "" && !shown.given {
			t.Fatalf("a secret that nobody has given: %+v", shown)
		}
	})
}

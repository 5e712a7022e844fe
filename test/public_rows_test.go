package test

import (
	"encoding/base64"
	"strings"
	"testing"
)

// A gateway that is configured as one on the internet, asked over real sockets and TLS from other addresses than its own: what
// is tried has one verdict, in whatever protocol and form, and the gateway tells nobody what he is not to know.
func TestPublicEndpoint(t *testing.T) {
	t.Parallel()
	p := newPublic(t, 8)
	tried := 0
	for _, a := range append(tokenAttempts(), otherAttempts(p)...) {
		tried++
		r := p.tenants[1+tried%7] // so that none has so many faults that the guard leaves it out
		t.Run(a.row+" "+a.name, func(t *testing.T) { a.check(t, p, r) })
	}
	if n := p.forge.lookedAt.Load(); n > 0 {
		t.Errorf("keys were looked for %d times where a token said", n)
	}
	for _, s := range probes() {
		t.Run(s.name, func(t *testing.T) { s.do(t, p) })
	}
	t.Run("X29 X36 X37 X38 nothing is told", func(t *testing.T) { p.nothingTold(t) })
}

// otherAttempts are those with keys, names and parameters.
func otherAttempts(p *public) []attempt {
	const no, key = "401 unauthenticated", "Authorization: Bearer KEY"
	basic := func(s string) string { return "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(s)) }
	list := []attempt{
		{row: "X9", name: "nothing", want: no},
		{row: "X9", name: "a claim", head: []string{"Appid: APP"}, want: no},
		{row: "X9", name: "a wrong key", head: []string{"Appid: APP", "Pubkey: KEYx", "Subkey: KEYx"}, want: no},
		{row: "X9", name: "another's key", head: []string{"Appid: APP", "Pubkey: OTHER", "Subkey: OTHER"}, want: no},
		{row: "X9", name: "another's claim", head: []string{"Appid: tenant0", key}, want: no},
		{row: "X9", name: "basic, wrong", head: []string{basic("tenant0:canary-basic")}, want: no},
		{row: "X9", name: "another scheme", head: []string{"Authorization: Digest KEY"}, want: no},
		{row: "X9", name: "the operator's key", head: []string{"Authorization: Bearer " + p.admin}, want: no},
		{row: "X9", name: "a key in the URL", more: "access_token=KEY", want: no},
		{row: "X9", name: "a cookie", head: []string{"Cookie: Authorization=KEY; token=KEY"}, want: no},
		{row: "X10", name: "the key", head: []string{key}, want: in},
		{row: "X10", name: "the key as header", head: []string{"Appid: APP", "Pubkey: KEY", "Subkey: KEY"}, want: in},
		{row: "X15", name: "an internal topic", topic: "__consumer_offsets", head: []string{key}, want: "404 unknown_topic"},
		{row: "X15", name: "an internal app", owner: "__consumer_offsets", reads: true, head: []string{key}, want: "400 invalid_name"},
		{row: "X32", name: "a page that is welcome", head: []string{key, "Origin: " + p.origin}, want: in},
		{row: "X45", name: "two claims", head: []string{key, "Appid: APP", "Appid: APP"}, want: "400 invalid_param"},
		{row: "X45", name: "two keys", head: []string{key, key}, want: "400 invalid_param"},
		{row: "X45", name: "key and header", head: []string{key, "Pubkey: KEY", "Subkey: KEY"}, want: "400 invalid_param"},
		{row: "X45", name: "an unknown parameter", more: "admin=1", head: []string{key}, want: "400 invalid_param"},
		{row: "X16", name: "a large head", head: []string{key, "X-Note: " + strings.Repeat("x", 33<<10)}, want: "431 headers_too_large"},
		{row: "X16", name: "many fields", head: append([]string{key}, strings.Split(strings.TrimSuffix(strings.Repeat("X-Note: x\n", 70), "\n"), "\n")...), want: "431 headers_too_large"},
		{row: "X11", name: "another's topic", owner: "tenant0", reads: true, head: []string{key}, want: "403 denied"},
		{row: "X11", name: "another's that is not there", owner: "tenant0", topic: "nothing", reads: true, head: []string{key}, want: "403 denied"},
		{row: "X11", name: "of nobody", owner: "nobody", reads: true, head: []string{key}, want: "403 denied"},
	}
	for _, name := range []string{"%2e%2e", "%252e", "..%2f..", "a.b", "%00", "orders%0d%0aX:y", "%ff", strings.Repeat("x", 101), "orders%e2%80%8b", "*", "orders.v1.g.dead"} {
		list = append(list, attempt{row: "X14", name: name, topic: name, head: []string{key}, want: "400"})
	}
	host := strings.TrimPrefix(p.origin, "https://")
	for _, origin := range []string{
		"https://evil.example", "null", "https://" + host + ".evil.example", "https://evil" + host, "https://x." + host, "http://" + host, "https://" + host + ":444",
		"https://" + host + "@evil.example", p.origin + " https://evil.example", "https://" + host + "%2eevil.example", p.origin + "/", "file://",
	} {
		list = append(list, attempt{row: "X32", name: origin, head: []string{key, "Origin: " + origin}, want: "403 cross_origin"})
	}
	return append(list, attempt{row: "X32", name: "another site", head: []string{key, "Sec-Fetch-Site: cross-site"}, want: "403 cross_origin"})
}

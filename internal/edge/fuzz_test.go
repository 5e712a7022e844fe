package edge

import (
	"net/http"
	"net/netip"
	"testing"
)

// FuzzForwarded: whatever X-Forwarded-For says, the address that counts is one, and never one before the last that is no proxy of ours.
func FuzzForwarded(f *testing.F) {
	p, err := ParseProxies([]string{"10.0.0.0/8", "::1/128"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add("10.0.0.1:1", "1.2.3.4, 10.0.0.2", "[::ffff:10.0.0.9]:5")
	f.Add("192.0.2.1:1", "1.2.3.4", "")
	f.Add("10.0.0.1:1", ",,", "fe80::1%eth0")
	f.Fuzz(func(t *testing.T, peer, first, second string) {
		r := &http.Request{RemoteAddr: peer, Header: http.Header{forwardedFor: {first, second}}}
		trusted := p.Arrived(r)
		from, err := netip.ParseAddrPort(peer)
		if err != nil || !p.Trusts(from.Addr()) {
			if trusted || r.RemoteAddr != peer || len(r.Header[forwardedFor]) > 0 {
				t.Fatalf("%q is believed: %q, %v", peer, r.RemoteAddr, r.Header)
			}
			return
		}
		client, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil {
			t.Fatalf("the address is %q", r.RemoteAddr)
		}
		_, last, _ := cutLast(second)
		if hop, ok := parseHop(last); ok && !p.Trusts(hop.Addr()) && client != hop {
			t.Fatalf("%q counts, and the last that is no proxy is %v", r.RemoteAddr, hop)
		}
	})
}

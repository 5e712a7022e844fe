package edge

import (
	"bytes"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// requests are what a client may send, each with the fault that is found in it.
func requests() map[string]struct{ text, fault string } {
	type c = struct{ text, fault string }
	long := strings.Repeat("x", 200)
	return map[string]c{
		"get":                       {"GET / HTTP/1.1\r\nHost: a\r\n\r\n", ""},
		"two":                       {"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.0\r\n\r\n", ""},
		"body":                      {"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\n\n \n\nGET / HTTP/1.1\r\n\r\n", ""},
		"two lengths that agree":    {"POST / HTTP/1.1\r\nContent-Length: 4\r\ncontent-length:4 \r\n\r\n1234GET / HTTP/1.1\r\n\r\n", ""},
		"chunks":                    {"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\n\n\n\n\r\n00A\r\n0123456789\r\n0\r\nA: b\r\n\r\nGET / HTTP/1.1\r\n\r\n", ""},
		"blanks behind a size":      {"POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n3 \t\r\nabc\r\n0\r\n\r\n", ""},
		"empty lines before":        {"\r\n\r\nGET / HTTP/1.1\r\n\r\n", ""},
		"long lines":                {"GET /" + long + " HTTP/1.1\r\nX: " + long + "\r\n\r\nPOST /" + long + " HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc", ""},
		"HTTP/2":                    {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\n\n \n", ""},
		"both":                      {"POST / HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n", faultBoth},
		"both, the other way":       {"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n", faultBoth},
		"both in the second":        {"GET / HTTP/1.1\r\n\r\nPOST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n", faultBoth},
		"HTTP/2 late":               {"GET / HTTP/1.1\r\n\r\nPRI * HTTP/2.0\r\n\r\n", faultVersion},
		"version":                   {"GET / HTTP/1.2\r\n\r\n", faultVersion},
		"no version":                {"GET /\r\n\r\n", faultVersion},
		"bare LF":                   {"GET / HTTP/1.1\n\r\n", faultBareLF},
		"bare LF in a field":        {"GET / HTTP/1.1\r\nA: b\n\r\n", faultBareLF},
		"bare LF at the end":        {"GET / HTTP/1.1\r\nA: b\r\n\n", faultBareLF},
		"bare LF first":             {"\nGET / HTTP/1.1\r\n\r\n", faultBareLF},
		"folded":                    {"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", faultFold},
		"folded by a tab":           {"GET / HTTP/1.1\r\nA: b\r\n\tc\r\n\r\n", faultFold},
		"folded first":              {"GET / HTTP/1.1\r\n A: b\r\n\r\n", faultFold},
		"folded trailer":            {"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\n c\r\n\r\n", faultFold},
		"folded encoding":           {"POST / HTTP/1.1\r\nTransfer-Encoding:\r\n chunked\r\n\r\n", faultEncoding},
		"encodings":                 {"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", faultEncoding},
		"encoding twice":            {"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", faultEncoding},
		"encoding, HTTP/1.0":        {"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", faultEncoding},
		"encoding with much behind": {"POST / HTTP/1.1\r\nTransfer-Encoding: chunked" + strings.Repeat(" ", 80) + "x\r\n\r\n", faultEncoding},
		"lengths that differ":       {"POST / HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n", faultLength},
		"signed length":             {"POST / HTTP/1.1\r\nContent-Length: +4\r\n\r\n", faultLength},
		"list of lengths":           {"POST / HTTP/1.1\r\nContent-Length: 4, 4\r\n\r\n", faultLength},
		"empty length":              {"POST / HTTP/1.1\r\nContent-Length:\r\n\r\n", faultLength},
		"huge length":               {"POST / HTTP/1.1\r\nContent-Length: 9999999999999999999\r\n\r\n", faultLength},
		"length with much behind":   {"POST / HTTP/1.1\r\nContent-Length: 4" + strings.Repeat(" ", 80) + "5\r\n\r\n", faultLength},
		"no size":                   {"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\r\n", faultChunk},
		"hex prefix":                {"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0x3\r\n", faultChunk},
		"signed size":               {"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-3\r\n", faultChunk},
		"huge size":                 {"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000003\r\n", faultChunk},
		"negative size":             {"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nf000000000000003\r\n", faultChunk},
		"blank inside a size":       {"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3 3\r\n", faultChunk},
		"bare LF behind a size":     {"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\r\n", faultChunk},
		"bare LF behind a chunk":    {"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\n0\r\n\r\n", faultChunk},
		"too much in a chunk":       {"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", faultChunk},
	}
}

// However the bytes are cut into pieces, the verdict is the same.
func TestScanner(t *testing.T) {
	for name, c := range requests() {
		t.Run(name, func(t *testing.T) {
			for range 200 {
				s, fault := scanner{h2: true}, ""
				for rest := []byte(c.text); len(rest) > 0 && fault == ""; {
					n := 1 + rand.IntN(len(rest))
					if rand.IntN(2) == 0 {
						n = 1
					}
					_, fault = s.scan(rest[:n])
					rest = rest[n:]
				}
				if fault != c.fault || fault == "" && s.state != atRequest && s.state != through {
					t.Fatalf("fault %q, want %q; in state %d", fault, c.fault, s.state)
				}
			}
		})
	}
}

// What net/http gets is what was sent up to the fault, and then what no reading makes a request of.
func TestPoison(t *testing.T) {
	for name, c := range requests() {
		t.Run(name, func(t *testing.T) {
			a, b := net.Pipe()
			go func() {
				_, _ = a.Write([]byte(c.text))
				_ = a.Close()
			}()
			conn := &conn{Conn: b, raw: b, refused: NewMetrics(prometheus.NewRegistry()).requests, done: func() {}, scanner: scanner{h2: true}}
			defer conn.Close()
			var got bytes.Buffer
			_, _ = got.ReadFrom(conn)
			if c.fault == "" {
				if got.String() != c.text {
					t.Errorf("got %q", got.String())
				}
				return
			}
			before, found := strings.CutSuffix(got.String(), poison)
			if !found || !strings.HasPrefix(c.text, before) {
				t.Errorf("got %q", got.String())
			}
		})
	}
}

func TestLimits(t *testing.T) {
	l := NewLimits(5, 2)
	far, other, home := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("127.0.0.1")
	var done []func()
	take := func(a netip.Addr, trusted bool, spare int64, want string) {
		t.Helper()
		d, reason := l.take(a, trusted, spare)
		if reason != want {
			t.Errorf("%s: %q, want %q", a, reason, want)
		}
		if d != nil {
			done = append(done, d)
		}
	}
	take(far, false, 0, "")
	take(far, false, 0, "")
	take(far, false, 0, reasonAddress)
	take(netip.MustParseAddr("::ffff:192.0.2.1"), false, 0, reasonAddress)
	take(other, false, 0, "")
	take(netip.MustParseAddr("2001:db8::2"), false, 0, "")
	take(netip.MustParseAddr("2001:db8::3"), false, 0, reasonAddress)
	done[0]()
	take(home, false, 0, "")
	take(home, false, 0, "")
	take(home, false, 0, reasonTotal)
	take(far, false, 1, "")
	take(far, false, 1, reasonTotal)
	for _, d := range done[1:] {
		d()
	}
	if l.open != 0 || len(l.from) != 0 {
		t.Errorf("%d are open, %v", l.open, l.from)
	}
	for range 3 {
		take(far, true, 0, "")
	}
}

// Who says what where a request comes from, and who is believed.
func TestForwarded(t *testing.T) {
	p, err := ParseProxies([]string{"10.0.0.0/8", "2001:db8::/32", "192.0.2.7"})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		peer string
		xff  []string
		want string
	}{
		"direct":                       {"203.0.113.5:1234", nil, "203.0.113.5:1234"},
		"direct, and lies":             {"203.0.113.5:1234", []string{"1.2.3.4"}, "203.0.113.5:1234"},
		"a proxy that says nothing":    {"10.0.0.1:80", nil, "10.0.0.1:80"},
		"a proxy":                      {"10.0.0.1:80", []string{"198.51.100.1"}, "198.51.100.1:0"},
		"with port":                    {"10.0.0.1:80", []string{"198.51.100.1:99"}, "198.51.100.1:99"},
		"the client has put one first": {"10.0.0.1:80", []string{"1.2.3.4, 198.51.100.1"}, "198.51.100.1:0"},
		"in lines":                     {"10.0.0.1:80", []string{"1.2.3.4", "198.51.100.1"}, "198.51.100.1:0"},
		"two proxies":                  {"10.0.0.1:80", []string{"1.2.3.4, 198.51.100.1,10.2.2.2"}, "198.51.100.1:0"},
		"all trusted":                  {"10.0.0.1:80", []string{"10.3.3.3, 10.2.2.2"}, "10.3.3.3:0"},
		"the client claims a proxy":    {"10.0.0.1:80", []string{"10.9.9.9, 198.51.100.1"}, "198.51.100.1:0"},
		"garbage on the left":          {"10.0.0.1:80", []string{"unknown, 198.51.100.1"}, "198.51.100.1:0"},
		"garbage on the right":         {"10.0.0.1:80", []string{"198.51.100.1, unknown"}, "10.0.0.1:80"},
		"garbage behind a proxy":       {"10.0.0.1:80", []string{"198.51.100.1, x, 10.2.2.2"}, "10.2.2.2:0"},
		"empty":                        {"10.0.0.1:80", []string{""}, "10.0.0.1:80"},
		"empty element":                {"10.0.0.1:80", []string{"198.51.100.1,"}, "10.0.0.1:80"},
		"IPv6":                         {"[2001:db8::1]:80", []string{"2a00::1"}, "[2a00::1]:0"},
		"IPv6 in brackets":             {"10.0.0.1:80", []string{"[2a00::1]:5"}, "[2a00::1]:5"},
		"IPv6 in brackets, no port":    {"10.0.0.1:80", []string{"[2a00::1]"}, "[2a00::1]:0"},
		"IPv4 as IPv6":                 {"[::ffff:10.0.0.1]:80", []string{"::ffff:198.51.100.1"}, "198.51.100.1:0"},
		"zone":                         {"10.0.0.1:80", []string{"fe80::1%eth0"}, "10.0.0.1:80"},
		"octal":                        {"10.0.0.1:80", []string{"0300.1.1.1"}, "10.0.0.1:80"},
		"no address":                   {"10.0.0.1:80", []string{"0.0.0.0"}, "10.0.0.1:80"},
		"a single trusted one":         {"192.0.2.7:1", []string{"198.51.100.1"}, "198.51.100.1:0"},
		"its neighbour":                {"192.0.2.8:1", []string{"198.51.100.1"}, "192.0.2.8:1"},
	} {
		t.Run(name, func(t *testing.T) {
			r := &http.Request{RemoteAddr: c.peer, Header: http.Header{forwardedFor: c.xff, forwardedProto: {"https"}}}
			changed := p.Arrived(r)
			if r.RemoteAddr != c.want || changed != (r.RemoteAddr != c.peer) {
				t.Errorf("%s, changed %t; want %s", r.RemoteAddr, changed, c.want)
			}
			if believed := p.Encrypted(r); believed != p.Trusts(Remote(c.peer)) {
				t.Errorf("believed that it came over HTTPS: %t", believed)
			}
		})
	}
}

func TestParseProxies(t *testing.T) {
	for _, bad := range []string{"", "x", "10.0.0.0/33", "fe80::1%eth0", "::ffff:10.0.0.0/104", "10.0.0.1:80", "proxy.example"} {
		if _, err := ParseProxies([]string{bad}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	if p, err := ParseProxies(nil); err != nil || p.Trusts(netip.MustParseAddr("127.0.0.1")) || p.Encrypted(&http.Request{Header: http.Header{forwardedProto: {"https"}}}) {
		t.Errorf("nobody is to be trusted: %v", err)
	}
}

func BenchmarkScan(b *testing.B) {
	for name, text := range map[string]string{
		"publish": "POST /v1/msgs/orders/v1?key=customer-17 HTTP/1.1\r\nHost: 127.0.0.1:9191\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\nAppid: shop\r\nPubkey: 0123456789abcdef0123456789abcdef\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n" + strings.Repeat("x", 100),
		"chunked": "POST /v1/msgs/orders/v1?key=customer-17 HTTP/1.1\r\nHost: 127.0.0.1:9191\r\nTransfer-Encoding: chunked\r\n\r\n64\r\n" + strings.Repeat("x", 100) + "\r\n0\r\n\r\n",
	} {
		b.Run(name, func(b *testing.B) {
			var s scanner
			request := []byte(text)
			b.ReportAllocs()
			for b.Loop() {
				if good, fault := s.scan(request); good != len(request) || fault != "" {
					b.Fatal(fault)
				}
			}
		})
	}
}

func FuzzScanner(f *testing.F) {
	for _, c := range requests() {
		f.Add([]byte(c.text), uint8(3))
	}
	f.Fuzz(func(t *testing.T, b []byte, step uint8) {
		whole, cut := scanner{h2: true}, scanner{h2: true}
		_, want := whole.scan(b)
		got := ""
		for len(b) > 0 && got == "" {
			n := min(int(step)+1, len(b))
			_, got = cut.scan(b[:n])
			b = b[n:]
		}
		if got != want {
			t.Errorf("%q in pieces, %q as a whole", got, want)
		}
	})
}

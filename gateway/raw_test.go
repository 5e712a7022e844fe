package gateway

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kateway/kateway/store/mem"
)

// rawCase is bytes as somebody sends them over HTTP/1, and what must become of them. @ in text is the beginning of a publish
// to the case's own topic, up to its Host; EVIL is a whole publish that stands where a second request could be found.
type rawCase struct {
	name, text string
	statuses   string   // of all answers on the connection
	stored     []string // the values in the topic
}

const evil = "POST /v1/msgs/evil/v1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nevil"

// chunked is a publish with this body, framed as it stands.
func chunked(body string) string { return "@Transfer-Encoding: chunked\r\n\r\n" + body }

// soundCases are taken, each request once and whole.
func soundCases() []rawCase {
	one := []string{"hello"}
	return []rawCase{
		{"length", "@Content-Length: 5\r\n\r\nhello", "201", one},
		{"length without a space", "@Content-Length:5\r\n\r\nhello", "201", one},
		{"length with blanks around", "@Content-Length: \t5 \t\r\n\r\nhello", "201", one},
		{"length with zeros before", "@Content-Length: 0005\r\n\r\nhello", "201", one},
		{"two equal lengths", "@Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", "201", one},
		{"no body", "@Content-Length: 0\r\n\r\n", "201", []string{""}},
		{"no length", "@\r\n", "201", []string{""}},
		{"chunks", chunked("3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"), "201", one},
		{"upper case", "@TRANSFER-ENCODING: CHUNKED\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "201", one},
		{"chunk extension", chunked("5;a=b;c=\"d\"\r\nhello\r\n0\r\n\r\n"), "201", one},
		{"blank behind a chunk size", chunked("5 \r\nhello\r\n0\r\n\r\n"), "201", one},
		{"zeros before a chunk size", chunked("0000005\r\nhello\r\n0\r\n\r\n"), "201", one},
		{"trailer", chunked("5\r\nhello\r\n0\r\nX-Note: a\r\n\r\n"), "201", one},
		{"line ends in a body", "@Content-Length: 5\r\n\r\n\n\r\n \n", "201", []string{"\n\r\n \n"}},
		{"a request in a body", fmt.Sprintf("@Content-Length: %d\r\n\r\n%s", len(evil), evil), "201", []string{evil}},
		{"a request in a chunk", chunked(fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(evil), evil)), "201", []string{evil}},
		{"pipelined", "@Content-Length: 5\r\n\r\nhello@Content-Length: 3\r\n\r\nyou", "201 201", []string{"hello", "you"}},
		{"pipelined chunks", chunked("5\r\nhello\r\n0\r\n\r\n") + chunked("3\r\nyou\r\n0\r\n\r\n"), "201 201", []string{"hello", "you"}},
		{"empty line between", "@Content-Length: 5\r\n\r\nhello\r\n@Content-Length: 3\r\n\r\nyou", "201 201", []string{"hello", "you"}},
		{"HTTP/1.0", "POST /v1/msgs/TOPIC/v1 HTTP/1.0\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello", "201", one},
		{"absolute form", "POST http://localhost/v1/msgs/TOPIC/v1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello", "201", one},
		{"100-continue", "@Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello", "201", one},
		{"closed behind", "@Connection: close\r\nContent-Length: 5\r\n\r\nhelloEVIL", "201", one},
	}
}

// brokenCases are refused, and so is all that follows on the connection.
func brokenCases() []rawCase {
	return []rawCase{
		// Where does the body end?
		{"length and chunks", "@Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nEVIL", "400", nil},
		{"chunks and length", "@Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\nEVIL", "400", nil},
		{"chunks and no length", "@Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\nEVIL", "400", nil},
		{"lengths that differ", "@Content-Length: 5\r\nContent-Length: 0\r\n\r\nhelloEVIL", "400", nil},
		{"list of lengths", "@Content-Length: 5, 5\r\n\r\nhelloEVIL", "400", nil},
		{"list of lengths that differ", "@Content-Length: 0, 5\r\n\r\nhelloEVIL", "400", nil},
		{"signed length", "@Content-Length: +5\r\n\r\nhelloEVIL", "400", nil},
		{"negative length", "@Content-Length: -5\r\n\r\nhelloEVIL", "400", nil},
		{"hexadecimal length", "@Content-Length: 0x5\r\n\r\nhelloEVIL", "400", nil},
		{"empty length", "@Content-Length:\r\n\r\nEVIL", "400", nil},
		{"length with a fraction", "@Content-Length: 5.0\r\n\r\nhelloEVIL", "400", nil},
		{"length in quotes", "@Content-Length: \"5\"\r\n\r\nhelloEVIL", "400", nil},
		{"length beyond 64 bits", "@Content-Length: 18446744073709551621\r\n\r\nhelloEVIL", "400", nil},
		{"length with other digits", "@Content-Length: \xd9\xa5\r\n\r\nhelloEVIL", "400", nil},
		{"length with a NUL", "@Content-Length: 5\x00\r\n\r\nhelloEVIL", "400", nil},
		{"length with an underscore", "@Content-Length: 1_0\r\n\r\nhelloEVIL", "400", nil},
		{"space before the colon", "@Content-Length : 5\r\n\r\nhelloEVIL", "400", nil},
		{"encoding with a space before the colon", "@Transfer-Encoding : chunked\r\n\r\n0\r\n\r\nEVIL", "400", nil},
		{"encoding twice", "@Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nEVIL", "400", nil},
		{"encoding identity", "@Transfer-Encoding: identity\r\nContent-Length: 5\r\n\r\nhelloEVIL", "400", nil},
		{"encoding gzip, chunked", "@Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\nEVIL", "400", nil},
		{"encoding chunked, chunked", "@Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\nEVIL", "400", nil},
		{"encoding chunked, identity", "@Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\nEVIL", "400", nil},
		{"encoding xchunked", "@Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\nEVIL", "400", nil},
		{"encoding in quotes", "@Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\nEVIL", "400", nil},
		{"encoding with a vertical tab", "@Transfer-Encoding: \vchunked\r\n\r\n0\r\n\r\nEVIL", "400", nil},
		{"empty encoding", "@Transfer-Encoding:\r\n\r\nEVIL", "400", nil},
		{"encoding of HTTP/1.0", "POST /v1/msgs/TOPIC/v1 HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\nEVIL", "400", nil},

		// Where does a line end?
		{"folded field", "@X-Note: a\r\n b\r\nContent-Length: 5\r\n\r\nhelloEVIL", "400", nil},
		{"folded by a tab", "@X-Note: a\r\n\tContent-Length: 0\r\nContent-Length: 5\r\n\r\nhelloEVIL", "400", nil},
		{"folded encoding", "@Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\nEVIL", "400", nil},
		{"folded length", "@Content-Length:\r\n 5\r\n\r\nhelloEVIL", "400", nil},
		{"first field begins with a space", "POST /v1/msgs/TOPIC/v1 HTTP/1.1\r\n Host: localhost\r\nContent-Length: 5\r\n\r\nhelloEVIL", "400", nil},
		{"bare LF behind the request line", "POST /v1/msgs/TOPIC/v1 HTTP/1.1\nHost: localhost\r\nContent-Length: 5\r\n\r\nhelloEVIL", "400", nil},
		{"bare LF behind a field", "@X-Note: a\nContent-Length: 5\r\n\r\nhelloEVIL", "400", nil},
		{"bare LF behind the length", "@Content-Length: 5\n\r\nhelloEVIL", "400", nil},
		{"bare LF as end of the head", "@Content-Length: 5\r\n\nhelloEVIL", "400", nil},
		{"bare LFs only", "POST /v1/msgs/TOPIC/v1 HTTP/1.1\nHost: localhost\nContent-Length: 5\n\nhelloEVIL", "400", nil},
		{"bare CR in a field", "@X-Note: a\rContent-Length: 0\r\nContent-Length: 5\r\n\r\nhelloEVIL", "400", nil},
		{"bare CR behind the request line", "POST /v1/msgs/TOPIC/v1 HTTP/1.1\rHost: localhost\r\nContent-Length: 5\r\n\r\nhelloEVIL", "400", nil},
		{"CR CR LF", "@Content-Length: 5\r\r\n\r\nhelloEVIL", "400", nil},
		{"NUL in a field", "@X-Note: a\x00b\r\nContent-Length: 5\r\n\r\nhelloEVIL", "400", nil},
		{"field without a colon", "@X-Note\r\nContent-Length: 5\r\n\r\nhelloEVIL", "400", nil},
		{"field without a name", "@: a\r\nContent-Length: 5\r\n\r\nhelloEVIL", "400", nil},
		{"name with a space", "@X Note: a\r\nContent-Length: 5\r\n\r\nhelloEVIL", "400", nil},

		// What is the request?
		{"no host", "POST /v1/msgs/TOPIC/v1 HTTP/1.1\r\nContent-Length: 5\r\n\r\nhelloEVIL", "400", nil},
		{"two hosts", "@Host: localhost\r\nContent-Length: 5\r\n\r\nhelloEVIL", "400", nil},
		{"host with a space", "POST /v1/msgs/TOPIC/v1 HTTP/1.1\r\nHost: local host\r\nContent-Length: 5\r\n\r\nhelloEVIL", "400", nil},
		{"HTTP/0.9", "POST /v1/msgs/TOPIC/v1\r\n\r\nhelloEVIL", "400", nil},
		{"HTTP/1.2", "POST /v1/msgs/TOPIC/v1 HTTP/1.2\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhelloEVIL", "400", nil},
		{"HTTP/2.0 in a line", "POST /v1/msgs/TOPIC/v1 HTTP/2.0\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhelloEVIL", "400", nil},
		{"version in lower case", "POST /v1/msgs/TOPIC/v1 http/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhelloEVIL", "400", nil},
		{"blank behind the version", "POST /v1/msgs/TOPIC/v1 HTTP/1.1 \r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhelloEVIL", "400", nil},
		{"space in the path", "POST /v1/msgs/TOPIC/v1 x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhelloEVIL", "400", nil},
		{"method with a colon", "PO:ST /v1/msgs/TOPIC/v1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhelloEVIL", "400", nil},
		{"half a preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\nEVIL", "403", nil},
	}
}

// brokenBodies do not come to their end.
func brokenBodies() []rawCase {
	return []rawCase{
		{"body breaks off", "@Content-Length: 50\r\n\r\nhello", "400", nil},
		{"chunk breaks off", chunked("5\r\nhel"), "400", nil},
		{"no last chunk", chunked("5\r\nhello\r\n"), "400", nil},
		{"no end of trailers", chunked("5\r\nhello\r\n0\r\n"), "400", nil},
		{"chunk without a size", chunked("5\r\nhello\r\n\r\nEVIL"), "400", nil},
		{"chunk size with 0x", chunked("0x5\r\nhello\r\n0\r\n\r\nEVIL"), "400", nil},
		{"signed chunk size", chunked("+5\r\nhello\r\n0\r\n\r\nEVIL"), "400", nil},
		{"negative chunk size", chunked("-5\r\nhello\r\n0\r\n\r\nEVIL"), "400", nil},
		{"chunk size of 17 digits", chunked("10000000000000005\r\nhello\r\n0\r\n\r\nEVIL"), "400", nil},
		{"chunk size beyond 63 bits", chunked("fffffffffffffff5\r\nhello\r\n0\r\n\r\nEVIL"), "400", nil},
		{"blank before a chunk size", chunked(" 5\r\nhello\r\n0\r\n\r\nEVIL"), "400", nil},
		{"chunk size in two words", chunked("5 5\r\nhello\r\n0\r\n\r\nEVIL"), "400", nil},
		{"bare LF behind a chunk size", chunked("5\nhello\r\n0\r\n\r\nEVIL"), "400", nil},
		{"bare LF behind an extension", chunked("5;a\nhello\r\n0\r\n\r\nEVIL"), "400", nil},
		{"bare LF behind a chunk", chunked("5\r\nhello\n0\r\n\r\nEVIL"), "400", nil},
		{"bare LF behind the last chunk", chunked("5\r\nhello\r\n0\n\r\nEVIL"), "400", nil},
		{"bare LF as end of the trailers", chunked("5\r\nhello\r\n0\r\n\nEVIL"), "400", nil},
		{"CR in an extension", chunked("5;a\rb\r\nhello\r\n0\r\n\r\nEVIL"), "400", nil},
		{"chunk longer than it says", chunked("4\r\nhello\r\n0\r\n\r\nEVIL"), "400", nil},
		{"chunk shorter than it says", chunked("6\r\nhello\r\n0\r\n\r\nEVIL"), "400", nil},
		{"folded trailer", chunked("5\r\nhello\r\n0\r\nX-Note: a\r\n b\r\n\r\nEVIL"), "400", nil},
		{"broken behind a sound one", "@Content-Length: 5\r\n\r\nhello@Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nEVIL", "201 400", []string{"hello"}},
	}
}

// Of every request that two programs could read differently nothing is stored, nor is a body in part, and what follows on the
// connection is not taken for a request. Each case is sent as a whole and byte by byte, in clear text and over TLS.
func TestRawRequests(t *testing.T) {
	certFile, keyFile := certFiles(t)
	writeCert(t, certFile, keyFile, "localhost")
	for name, change := range map[string]func(*Config){"clear": nil, "TLS": func(c *Config) { c.TLSCert, c.TLSKey = certFile, keyFile }} {
		t.Run(name, func(t *testing.T) {
			s := mem.New()
			testRaw(t, startOn(t, s, change), s)
		})
	}
}

func testRaw(t *testing.T, g *running, s *mem.Store) {
	n := 0
	for _, c := range slices.Concat(soundCases(), brokenCases(), brokenBodies()) {
		for _, piece := range []int{1 << 20, 1} {
			n++
			topic := fmt.Sprintf("raw%d", n)
			t.Run(fmt.Sprintf("%s/%d", c.name, piece), func(t *testing.T) {
				head := "POST /v1/msgs/" + topic + "/v1 HTTP/1.1\r\nHost: localhost\r\n"
				text := strings.NewReplacer("EVIL", evil, "TOPIC", topic, "@", head).Replace(c.text)
				want := c.statuses
				if strings.HasPrefix(text, "PRI ") && g.certs != nil {
					want = "400" // that HTTP/2 is spoken was agreed on in the handshake, or not
				}
				if got := sendRaw(t, g, text, piece); got != want {
					t.Errorf("answered %s, want %s", got, want)
				}
				if got := valuesOf(t, s, "default."+topic+".v1"); !slices.Equal(got, c.stored) {
					t.Errorf("stored %q, want %q", got, c.stored)
				}
				if got := valuesOf(t, s, "default.evil.v1"); got != nil {
					t.Fatalf("a second request was found: %q", got)
				}
			})
		}
	}
	t.Logf("%d cases", n/2)
}

// sendRaw sends the text in pieces, and answers the statuses of all answers until the gateway closes the connection.
func sendRaw(t *testing.T, g *running, text string, piece int) string {
	t.Helper()
	var d interface {
		DialContext(ctx context.Context, network, addr string) (net.Conn, error)
	} = new(net.Dialer)
	if g.certs != nil {
		d = &tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}
	}
	conn, err := d.DialContext(t.Context(), "tcp", g.Addr(Pub))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(15 * time.Second))
	go func() {
		for b := range slices.Chunk([]byte(text), piece) {
			if _, err := conn.Write(b); err != nil {
				return // refused already
			}
		}
		_ = conn.(interface{ CloseWrite() error }).CloseWrite()
	}()
	var statuses []string
	for in := bufio.NewReader(conn); ; {
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			return strings.Join(statuses, " ")
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		if resp.StatusCode != http.StatusContinue {
			statuses = append(statuses, resp.Status[:3])
		}
	}
}

func valuesOf(t *testing.T, s *mem.Store, topic string) (list []string) {
	t.Helper()
	for m, err := range s.Browse(t.Context(), topic, 0, 0) {
		if err != nil {
			return nil // there is no such topic
		}
		list = append(list, string(bytes.Clone(m.Value)))
	}
	return list
}

package test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kateway/kateway/internal/testkit"
)

// Bodies that break off or are badly framed: 400 where there is somebody to answer, the connection closed, nothing stored.
func TestBrokenBodiesStoreNothing(t *testing.T) {
	eachStore(t, func(t *testing.T, s *site) {
		g := s.start(t)
		c := g.client(s.app)
		first := c.publish("frames", "k", "first")
		const chunked = "Transfer-Encoding: chunked\r\n\r\n"
		for name, rest := range map[string]string{
			"no size":             chunked + "\r\nhello\r\n0\r\n\r\n",
			"size is no hex":      chunked + "xyz\r\nhello\r\n0\r\n\r\n",
			"negative size":       chunked + "-5\r\nhello\r\n0\r\n\r\n",
			"size too long":       chunked + "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
			"chunk too short":     chunked + "a\r\nhello\r\n0\r\n\r\n",
			"chunk too long":      chunked + "3\r\nhello\r\n0\r\n\r\n",
			"no last chunk":       chunked + "5\r\nhello\r\n",
			"ends in the chunk":   chunked + "5\r\nhe",
			"bare line feeds":     chunked + "5\nhello\n\nzz\n0\n\n",
			"two framings":        "Content-Length: 5\r\n" + "Transfer-Encoding: chunked, identity\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
			"shorter than stated": "Content-Length: 10\r\n\r\nhello",
			"two lengths":         "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
		} {
			t.Run(name, func(t *testing.T) {
				status, err := sendRaw(t, g, "POST /v1/msgs/frames/v1?key=k HTTP/1.1\r\nHost: 127.0.0.1\r\nAppid: "+s.app+"\r\n"+rest)
				if err != nil || status != "HTTP/1.1 400 Bad Request" && status != "HTTP/1.1 501 Not Implemented" {
					t.Errorf("answered %q, %v", status, err)
				}
			})
		}
		if next := c.publish("frames", "k", "second"); next.Offset != first.Offset+1 {
			t.Errorf("something was stored between offset %d and %d", first.Offset, next.Offset)
		}
	})
}

// sendRaw writes the bytes, says that no more will come, and answers the first line of what comes back, once the other side
// has closed the connection.
func sendRaw(t *testing.T, g *gateway, request string) (string, error) {
	t.Helper()
	conn, err := net.Dial("tcp", hostOf(t, g.pub))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, request); err != nil {
		return "", err
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return "", err
	}
	r := bufio.NewReader(conn)
	status, err := r.ReadString('\n')
	if err != nil {
		return status, err
	}
	if _, err := io.Copy(io.Discard, r); err != nil { // its end is the close
		return status, err
	}
	return strings.TrimSpace(status), nil
}

func hostOf(t *testing.T, base string) string {
	t.Helper()
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	return u.Host
}

// Whatever bytes are stored, each way of reading gives them back and no answer is broken by them.
func TestEveryByteComesBackInEveryForm(t *testing.T) {
	eachStore(t, func(t *testing.T, s *site) {
		c := s.start(t).client(s.app)
		all := make([]byte, 256)
		for i := range all {
			all[i] = byte(i)
		}
		coded := base64.StdEncoding.EncodeToString(all)
		object := fmt.Sprintf(`{"key_base64":%q,"value_base64":%q,"headers_base64":{"tags":%[1]q,"blob":%[1]q}}`, coded, coded)
		c.want(http.StatusCreated, "POST", "/v1/msgs/bytes/v1?batch=objects", strings.NewReader(object))

		raw := c.want(http.StatusOK, "GET", "/v1/msgs/"+c.topicOf("bytes")+"?group=raw", nil)
		if !bytes.Equal(raw.body, all) {
			t.Errorf("raw body %q", raw.body)
		}
		for _, name := range []string{"X-Key", "X-Tag", "X-Msg-Blob"} {
			if v, err := url.PathUnescape(raw.Header.Get(name)); err != nil || v != string(all) {
				t.Errorf("%s: %q, %v", name, raw.Header.Get(name), err)
			}
		}
		line := c.want(http.StatusOK, "GET", "/v1/msgs/"+c.topicOf("bytes")+"?group=lines", nil, "Accept", "application/x-ndjson")
		m := decode[struct {
			Key     []byte            `json:"key_base64"`
			Value   []byte            `json:"value_base64"`
			Headers map[string][]byte `json:"headers_base64"`
		}](t, line.body)
		if !bytes.Equal(m.Key, all) || !bytes.Equal(m.Value, all) || !bytes.Equal(m.Headers["tags"], all) || !bytes.Equal(m.Headers["blob"], all) {
			t.Errorf("as JSON: %s", line.body)
		}
		sse := c.want(http.StatusOK, "GET", "/v1/stream/"+c.topicOf("bytes")+"?group=sse&limit=1", nil, "Accept", "text/event-stream")
		if !bytes.Contains(sse.body, []byte("\ndata: "+strings.TrimSpace(string(line.body))+"\n\n")) {
			t.Errorf("as event: %s", sse.body)
		}
		text := c.want(http.StatusOK, "GET", "/v1/stream/"+c.topicOf("bytes")+"?group=text&limit=1", nil, "Accept", "text/plain")
		if string(text.body) != string(all)+"\n" {
			t.Errorf("as text: %q", text.body)
		}
		frame := c.want(http.StatusOK, "GET", "/v1/msgs/"+c.topicOf("bytes")+"?group=frames&batch=2", nil, "Accept", "application/octet-stream")
		if len(frame.body) != 16+len(all) || !bytes.Equal(frame.body[16:], all) {
			t.Errorf("as frame: %q", frame.body)
		}
	})
}

// A body that unpacks to a thousand times its size is refused, and costs little memory.
func TestBombsAreRefusedCheaply(t *testing.T) {
	eachStore(t, func(t *testing.T, s *site) {
		g := s.start(t)
		c := g.client(s.app)
		c.publish("bombs", "k", "warm")
		var bomb bytes.Buffer
		zw := gzip.NewWriter(&bomb)
		zeros := make([]byte, 1<<20)
		for range 1 << 10 { // 1 GiB in about 1 MB
			if _, err := zw.Write(zeros); err != nil {
				t.Fatal(err)
			}
		}
		if err := zw.Close(); err != nil {
			t.Fatal(err)
		}
		before := g.residentPeak()
		for range 5 {
			for _, batch := range []string{"", "?batch=lines"} {
				c.want(http.StatusRequestEntityTooLarge, "POST", "/v1/msgs/bombs/v1"+batch, bytes.NewReader(bomb.Bytes()), "Content-Encoding", "gzip")
			}
		}
		if grown := g.residentPeak() - before; grown > 32<<20 {
			t.Errorf("10 bombs cost %d MiB", grown>>20)
		} else {
			t.Logf("10 bombs cost %d MiB", grown>>20)
		}
	})
}

// residentPeak is the most memory that the process ever had resident, in bytes.
func (g *gateway) residentPeak() int { return g.memory("VmHWM") }

// rss is what it has resident now.
func (g *gateway) rss() int { return g.memory("VmRSS") }

func (g *gateway) memory(what string) int {
	g.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.cmd.Process.Pid))
	if errors.Is(err, os.ErrNotExist) {
		g.t.Skip("no /proc here")
	}
	m := regexp.MustCompile(what + `:\s+(\d+) kB`).FindSubmatch(b)
	if m == nil {
		g.t.Fatalf("no %s in %s", what, b)
	}
	n, err := strconv.Atoi(string(m[1]))
	if err != nil {
		g.t.Fatal(err)
	}
	return n << 10
}

// A publish repeated with its idempotency key is stored once, also when the gateway was killed in between.
func TestIdempotencyKeySurvivesKill(t *testing.T) {
	s := &site{"embedded", []string{"--data", t.TempDir()}, appOf(t)}
	g := s.start(t)
	c := g.client(s.app)
	once := func(body string, status int) answer {
		t.Helper()
		return c.want(status, "POST", "/v1/msgs/once/v1", strings.NewReader(body), "Idempotency-Key", "order-7")
	}
	first := decode[placed](t, once("pay", http.StatusCreated).body)
	g.kill()
	c = s.start(t).client(s.app)
	if again := decode[placed](t, once("pay", http.StatusCreated).body); again != first {
		t.Errorf("stored at %+v, and again at %+v", first, again)
	}
	once("pay more", http.StatusUnprocessableEntity)
	if next := c.publish("once", "", "other"); next.Offset != first.Offset+1 {
		t.Errorf("the next message is at %+v, the first at %+v", next, first)
	}
}

// While the only broker is away, publishes are refused or unknown, never acked, and /ready says so; once it is back, all goes on.
func TestKafkaAwayAndBack(t *testing.T) {
	kafka := testkit.Kafka(t) // of its own, since it is killed
	g := launch(t, "--data", t.TempDir(), "--kafka", kafka.Addrs()[0], "--publish-timeout", "3s", "--spool", "off")
	c := g.client("default")
	c.publish("away", "k", "before")
	st := c.stream("away", "")
	if m := st.next(); m.text() != "before" {
		t.Fatalf("got %+v", m)
	}
	kafka.Kill(0)
	a, err := c.do("POST", "/v1/msgs/away/v1?key=k", strings.NewReader("during"))
	if err != nil {
		t.Fatal(err)
	}
	switch a.StatusCode {
	case http.StatusServiceUnavailable:
		if a.Header.Get("Retry-After") == "" {
			t.Errorf("503 without Retry-After")
		}
	case http.StatusGatewayTimeout:
	default:
		t.Errorf("publish while Kafka is away: %s", a)
	}
	waitFor(t, "/ready to say that the store is down", func() bool {
		a, err := c.do("GET", "/ready", nil)
		return err == nil && a.StatusCode == http.StatusServiceUnavailable && strings.Contains(string(a.body), `"store":"down"`)
	})
	if a := c.want(http.StatusOK, "GET", "/alive", nil); !strings.Contains(string(a.body), "ok") {
		t.Errorf("alive: %s", a)
	}
	if err := kafka.Restart(0); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "/ready to say that the store is back", func() bool {
		a, err := c.do("GET", "/ready", nil)
		return err == nil && a.StatusCode == http.StatusOK
	})
	// Until the client's own attempts from before have ended, which takes a moment, the partition is refused at once (503).
	var after placed
	waitFor(t, "publishes to go on", func() bool {
		a, err := c.do("POST", "/v1/msgs/away/v1?key=k", strings.NewReader("after"))
		if err != nil || a.StatusCode == http.StatusServiceUnavailable {
			return false
		}
		if a.StatusCode != http.StatusCreated {
			t.Fatalf("publish when Kafka is back: %s", a)
		}
		after = decode[placed](t, a.body)
		return true
	})
	for m := st.next(); m.placed != after; m = st.next() {
		if m.text() != "during" && m.text() != "before" { // unknown outcome; a repeat
			t.Errorf("got %+v", m)
		}
	}
}

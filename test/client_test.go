package test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/kateway/kateway/test/storm"
)

const patience = storm.Patience

// placed is the answer to a publish.
type placed = storm.Placed

// message is one line of NDJSON.
type message struct {
	placed
	Key     string          `json:"key"`
	Headers map[string]any  `json:"headers"`
	Value   json.RawMessage `json:"value"`
	Attempt int             `json:"attempt"`
	Receipt string          `json:"receipt"`
}

// text is the value of a message that is no JSON.
func (m message) text() string {
	var s string
	if json.Unmarshal(m.Value, &s) != nil {
		return string(m.Value)
	}
	return s
}

// answer is a whole HTTP answer.
type answer struct {
	*http.Response
	body []byte
}

func (a answer) String() string { return fmt.Sprintf("%s: %s", a.Status, bytes.TrimSpace(a.body)) }

// client speaks for one app to one gateway.
type client struct {
	t    *testing.T
	http *http.Client
	base string
	app  string
}

// client makes one with connections of its own.
func (g *gateway) client(app string) *client {
	tr := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 100}
	g.t.Cleanup(tr.CloseIdleConnections)
	return &client{g.t, &http.Client{Transport: tr}, g.pub, app}
}

// do sends a request and reads the answer to its end.
func (c *client) do(method, path string, body io.Reader, header ...string) (answer, error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), 2*patience)
	defer cancel()
	resp, err := c.open(ctx, method, path, body, header...)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp, b}, err
}

func (c *client) open(ctx context.Context, method, path string, body io.Reader, header ...string) (*http.Response, error) {
	return (&storm.Client{HTTP: c.http, Base: c.base, App: c.app}).Open(ctx, method, path, body, header...)
}

// want is do for an answer that must have this status.
func (c *client) want(status int, method, path string, body io.Reader, header ...string) answer {
	c.t.Helper()
	a, err := c.do(method, path, body, header...)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	if a.StatusCode != status {
		c.t.Fatalf("%s %s: %s; want %d", method, path, a, status)
	}
	return a
}

// publish stores one message under a key.
func (c *client) publish(topic, key, value string) placed {
	c.t.Helper()
	a := c.want(http.StatusCreated, "POST", "/v1/msgs/"+topic+"/v1?key="+url.QueryEscape(key), strings.NewReader(value))
	return decode[placed](c.t, a.body)
}

// topicOf is the path of the app's topic below /v1/msgs and /v1/stream.
func (c *client) topicOf(topic string) string { return c.app + "/" + topic + "/v1" }

// poll takes messages as NDJSON; query is what follows group=g. None is 204.
func (c *client) poll(topic, query string, header ...string) []message {
	c.t.Helper()
	header = append(header, "Accept", "application/x-ndjson")
	a, err := c.do("GET", "/v1/msgs/"+c.topicOf(topic)+"?group=g"+query, nil, header...)
	if err != nil {
		c.t.Fatalf("poll: %v", err)
	}
	switch a.StatusCode {
	case http.StatusNoContent:
		return nil
	case http.StatusOK:
	default:
		c.t.Fatalf("poll: %s", a)
	}
	var all []message
	for line := range bytes.Lines(a.body) {
		all = append(all, decode[message](c.t, line))
	}
	return all
}

// pollUntil polls until n messages have come.
func (c *client) pollUntil(n int, topic, query string) []message {
	c.t.Helper()
	var all []message
	for deadline := time.Now().Add(patience); len(all) < n; {
		if time.Now().After(deadline) {
			c.t.Fatalf("%d of %d messages after %v", len(all), n, patience)
		}
		all = append(all, c.poll(topic, query+"&wait=2s")...)
	}
	return all
}

// settle applies one verb to each receipt and answers the status.
func (c *client) settle(topic, op string, of ...message) answer {
	c.t.Helper()
	type verb struct {
		Receipt string `json:"receipt"`
		Op      string `json:"op"`
	}
	verbs := make([]verb, len(of))
	for i, m := range of {
		verbs[i] = verb{m.Receipt, op}
	}
	b, err := json.Marshal(verbs)
	if err != nil {
		c.t.Fatal(err)
	}
	a, err := c.do("PUT", "/v1/msgs/"+c.topicOf(topic)+"?group=g", bytes.NewReader(b), "Content-Type", "application/json")
	if err != nil {
		c.t.Fatalf("settle: %v", err)
	}
	return a
}

// stream is an open NDJSON stream.
type stream struct {
	t     *testing.T
	resp  *http.Response
	lines chan []byte // closed at the end of the stream
	err   error       // why it ended; to be read after lines is closed; nil for a proper end
	stop  context.CancelFunc
}

// stream opens one; query is what follows group=g.
func (c *client) stream(topic, query string) *stream {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.t.Context())
	resp, err := c.open(ctx, "GET", "/v1/stream/"+c.topicOf(topic)+"?group=g"+query, nil)
	if err != nil {
		cancel()
		c.t.Fatalf("stream: %v", err)
	}
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		cancel()
		c.t.Fatalf("stream: %s: %s", resp.Status, b)
	}
	s := &stream{t: c.t, resp: resp, lines: make(chan []byte, 1024), stop: cancel}
	go s.read(ctx)
	c.t.Cleanup(s.close)
	return s
}

func (s *stream) read(ctx context.Context) {
	defer close(s.lines)
	r := bufio.NewReader(s.resp.Body)
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			if !errors.Is(err, io.EOF) || len(line) > 0 {
				s.err = fmt.Errorf("after %q: %w", line, err)
			}
			return
		}
		if len(bytes.TrimSpace(line)) == 0 {
			continue // a heartbeat
		}
		select {
		case s.lines <- line:
		case <-ctx.Done():
			return
		}
	}
}

// next is the stream's next message.
func (s *stream) next() message {
	s.t.Helper()
	select {
	case line, ok := <-s.lines:
		if !ok {
			s.t.Fatalf("the stream ended: %v", s.err)
		}
		return decode[message](s.t, line)
	case <-time.After(patience):
		s.t.Fatalf("no message after %v", patience)
		panic("unreachable")
	}
}

// ended waits for the end of the stream and answers what broke it, if anything.
func (s *stream) ended() error {
	s.t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case _, ok := <-s.lines:
			if !ok {
				return s.err
			}
		case <-deadline:
			s.t.Fatalf("the stream goes on after %v", patience)
		}
	}
}

// close hangs up.
func (s *stream) close() {
	s.stop()
	s.resp.Body.Close()
	for range s.lines { // until the reader has gone
	}
}

func decode[T any](t *testing.T, b []byte) (v T) {
	t.Helper()
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatalf("%q: %v", b, err)
	}
	return v
}

package test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/kateway/kateway/test/checker"
)

// producers publish, each one message or batch after the other, with a pause between them, each at a door of its own while
// that is there: so the order of its keys is certain.
func (s *storm) producers(n int, pause time.Duration) {
	ctx := s.load.life(s.t)
	for i := range n {
		s.load.wg.Go(func() {
			p := &producer{storm: s, n: i, r: s.random(fmt.Sprint("producer", i)), http: newHTTP(s.t)}
			tick := time.NewTicker(pause)
			defer tick.Stop()
			for ctx.Err() == nil {
				p.publish()
				select {
				case <-tick.C:
				case <-ctx.Done():
				}
			}
		})
	}
}

// stock publishes so many messages at once, and only then returns.
func (s *storm) stock(n int) {
	s.t.Helper()
	before := s.produced.Load()
	s.stocks++
	p := &producer{storm: s, n: 1000 * s.stocks, r: s.random("stock"), http: newHTTP(s.t), size: 100}
	for p.seq < n {
		p.batch(s.door(0), min(n-p.seq, 100))
	}
	if got := s.produced.Load() - before; int(got) < n {
		s.t.Fatalf("%d of %d messages are stored", got, n)
	}
}

// door is where the client with this number goes now.
func (s *storm) door(i int) door {
	doors := *s.doors.Load()
	return doors[i%len(doors)]
}

// producer publishes with three keys of its own, and without a key.
type producer struct {
	*storm
	n, seq int
	r      *rand.Rand
	http   *http.Client
	size   int // of each message; 0: any
}

// draft is a message before it is sent.
type draft struct {
	m     checker.Message
	value []byte
}

// tagOf and proofOf are the tags and the header that a message must come with.
func tagOf(id checker.ID) string {
	return []string{"red", "green;blue", "grey"}[(id.Producer+id.Seq)%3]
}
func proofOf(id checker.ID) string { return "proof of " + id.String() }

func (p *producer) draft() draft {
	id := checker.ID{Run: p.run, Producer: p.n, Seq: p.seq}
	p.seq++
	key := ""
	if k := p.r.IntN(4); k > 0 {
		key = fmt.Sprintf("key-%d-%d", p.n, k)
	}
	size := p.size
	if size == 0 {
		size = []int{10, 100, 100, 300, 4000}[p.r.IntN(5)]
	}
	value := checker.Payload{ID: id, Key: key, Sent: time.Now()}.Value(size, p.r.IntN(4) == 0)
	return draft{checker.Message{ID: id, Key: key, Tag: tagOf(id)}, value}
}

func (p *producer) publish() {
	d := p.door(p.n)
	if p.r.IntN(4) == 0 {
		p.batch(d, 2+p.r.IntN(5))
	} else {
		p.single(d)
	}
}

func (p *producer) single(d door) {
	m := p.draft()
	path := "/v1/msgs/" + p.topic + "/v1"
	if m.m.Key != "" {
		path += "?key=" + url.QueryEscape(m.m.Key)
	}
	n := p.begin(d, m)
	a, err := p.send(d, path, m.value, "X-Tag", m.m.Tag, "X-Msg-Proof", proofOf(m.m.ID))
	if err == nil && a.StatusCode == http.StatusCreated {
		var at placed
		if err := json.Unmarshal(a.body, &at); err != nil {
			p.fail("publish: %s: %v", a, err)
		}
		p.stored(n, m, at)
		return
	}
	p.refused(n, a, err)
}

// batch publishes several as objects, which may be told different outcomes.
func (p *producer) batch(d door, size int) {
	var body bytes.Buffer
	drafts := make([]draft, size)
	for i := range drafts {
		m := p.draft()
		drafts[i] = m
		object := map[string]any{"value_base64": base64.StdEncoding.EncodeToString(m.value), "headers": map[string]string{"tags": m.m.Tag, "proof": proofOf(m.m.ID)}}
		if m.m.Key != "" {
			object["key"] = m.m.Key
		}
		line, err := json.Marshal(object)
		if err != nil {
			panic(err)
		}
		body.Write(append(line, '\n'))
	}
	n := p.begin(d, drafts...)
	a, err := p.send(d, "/v1/msgs/"+p.topic+"/v1?batch=objects", body.Bytes())
	var results struct {
		Results []struct {
			placed
			Error *struct {
				Status int `json:"status"`
			} `json:"error"`
		} `json:"results"`
	}
	if err != nil || a.StatusCode != http.StatusCreated && a.StatusCode != http.StatusMultiStatus || json.Unmarshal(a.body, &results) != nil || len(results.Results) != size {
		p.refused(n, a, err)
		return
	}
	for i, r := range results.Results {
		if r.Error == nil {
			p.stored(n, drafts[i], r.placed)
		} else {
			p.h.End(n, outcome(r.Error.Status), string(a.body[:min(len(a.body), 300)]), drafts[i].m)
		}
	}
}

func (p *producer) begin(d door, drafts ...draft) int {
	r := checker.Record{Op: checker.Publish, Phase: checker.Invoke, Client: fmt.Sprint("producer", p.n), Via: d.name, Topic: p.inStore()}
	for _, m := range drafts {
		r.Messages = append(r.Messages, m.m)
	}
	return p.h.Note(r)
}

func (p *producer) stored(n int, m draft, at placed) {
	m.m.Partition, m.m.Offset = at.Partition, at.Offset
	p.h.End(n, checker.OK, "", m.m)
	p.produced.Add(1)
}

// refused notes a publish that was not answered 2xx as a whole.
func (p *producer) refused(n int, a answer, err error) {
	if err != nil {
		p.fail("publish: %v", err)
		p.h.End(n, lost(err), err.Error())
		return
	}
	p.fail("publish: %s", a)
	p.h.End(n, outcome(a.StatusCode), a.String())
}

// outcome is what a status says of a request.
func outcome(status int) checker.Phase {
	switch {
	case status < 300:
		return checker.OK
	case status < 500, status == http.StatusServiceUnavailable:
		return checker.Fail
	}
	return checker.Info
}

// lost is what a broken request was.
func lost(err error) checker.Phase {
	if errors.Is(err, syscall.ECONNREFUSED) {
		return checker.Fail // nobody was there to do it
	}
	return checker.Info
}

func (p *producer) send(d door, path string, body []byte, header ...string) (answer, error) {
	c := client{p.t, p.http, d.base, p.app}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return c.exchange(ctx, "POST", path, bytes.NewReader(body), header...)
}

// exchange sends a request and reads its answer to the end; with an error the answer has what was read.
func (c *client) exchange(ctx context.Context, method, path string, body io.Reader, header ...string) (answer, error) {
	resp, err := c.open(ctx, method, path, body, header...)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp, b}, err
}

// observed is a message as a client saw it, with what is wrong with it.
func observed(value []byte, m checker.Message) checker.Message {
	p, err := checker.Parse(value)
	m.ID = p.ID
	switch {
	case errors.Is(err, checker.ErrTruncated):
		m.Cut = true
	case err != nil:
		m.Wrong = err.Error()
	case m.Key != p.Key:
		m.Wrong = fmt.Sprintf("it has key %q, and says %q", m.Key, p.Key)
	}
	return m
}

// proven checks the header as well, where the form of the answer has headers.
func proven(m checker.Message, proof string) checker.Message {
	if m.Wrong == "" && !m.Cut && strings.TrimSpace(proof) != proofOf(m.ID) {
		m.Wrong = fmt.Sprintf("its header is %q", proof)
	}
	return m
}

package storm

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/kateway/kateway/test/checker"
)

// Producers publish, each one message or batch after the other, with a pause between them, each at a door of its own while
// that is there: so the order of its keys is certain.
func (s *Storm) Producers(n int, pause time.Duration) {
	ctx := s.Load.Life(s.T)
	for i := range n {
		s.Load.Wg.Go(func() {
			p := &Producer{Storm: s, N: i, R: s.Random(fmt.Sprint("producer", i)), HTTP: NewHTTP(s.T), life: ctx, tries: 1}
			if s.Keyed && i%2 == 1 {
				p.keyed, p.tries = true, 60
			}
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

// Stock publishes so many messages at once, and only then returns.
func (s *Storm) Stock(n int) {
	s.T.Helper()
	before := s.Produced.Load()
	s.stocks++
	p := &Producer{Storm: s, N: 1000 * s.stocks, R: s.Random("stock"), HTTP: NewHTTP(s.T), Size: 100}
	for p.seq < n {
		p.Batch(s.Door(0), min(n-p.seq, 100))
	}
	if got := s.Produced.Load() - before; int(got) < n {
		s.T.Fatalf("%d of %d messages are stored", got, n)
	}
}

// Door is where the client with this number goes now.
func (s *Storm) Door(i int) Door {
	doors := *s.doors.Load()
	return doors[i%len(doors)]
}

// Producer publishes with three keys of its own, and without a key.
type Producer struct {
	*Storm
	N, seq int
	R      *rand.Rand
	HTTP   *http.Client
	Size   int  // of each message; 0: any
	keyed  bool // with idempotency keys: repeated until there is an answer
	tries  int
	life   context.Context //nolint:containedctx // of the load
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

func (p *Producer) draft() draft {
	id := checker.ID{Run: p.run, Producer: p.N, Seq: p.seq}
	p.seq++
	key := ""
	if k := p.R.IntN(4); k > 0 {
		key = fmt.Sprintf("key-%d-%d", p.N, k)
	}
	size := p.Size
	if size == 0 {
		size = []int{10, 100, 100, 300, 4000}[p.R.IntN(5)]
	}
	value := checker.Payload{ID: id, Key: key, Sent: time.Now()}.Value(size, p.R.IntN(4) == 0)
	return draft{checker.Message{ID: id, Key: key, Tag: tagOf(id)}, value}
}

func (p *Producer) publish() {
	d := p.Door(p.N)
	if p.R.IntN(4) == 0 && !p.keyed {
		p.Batch(d, 2+p.R.IntN(5))
	} else {
		p.single(d)
	}
}

func (p *Producer) single(d Door) {
	m := p.draft()
	path := "/v1/msgs/" + p.Topic + "/v1"
	if m.m.Key != "" {
		path += "?key=" + url.QueryEscape(m.m.Key)
	}
	header := []string{"X-Tag", m.m.Tag, "X-Msg-Proof", proofOf(m.m.ID)}
	if p.keyed {
		header = append(header, "Idempotency-Key", m.m.ID.String())
	}
	for range p.tries {
		n := p.begin(d, m)
		a, err := p.send(d, path, m.value, header...)
		switch {
		case err == nil && a.StatusCode == http.StatusCreated:
			var at Placed
			if err := json.Unmarshal(a.Bytes, &at); err != nil {
				p.fail("publish: %s: %v", a, err)
			}
			p.stored(n, m, at)
			return
		case err == nil && a.StatusCode == http.StatusAccepted:
			p.spooled(n, m)
			return
		}
		p.refused(n, a, err)
		if err == nil && a.StatusCode < 500 || !p.rest() {
			return
		}
	}
}

// rest is what a producer does before it tries again; not at the end of the load.
func (p *Producer) rest() bool {
	select {
	case <-time.After(time.Second):
		return true
	case <-p.life.Done():
		return false
	}
}

// Batch publishes several as objects, which may be told different outcomes.
func (p *Producer) Batch(d Door, size int) {
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
	a, err := p.send(d, "/v1/msgs/"+p.Topic+"/v1?batch=objects", body.Bytes())
	var results struct {
		Results []struct {
			Placed
			Spooled bool `json:"spooled"`
			Error   *struct {
				Status int `json:"status"`
			} `json:"error"`
		} `json:"results"`
	}
	if err != nil || a.StatusCode != http.StatusCreated && a.StatusCode != http.StatusAccepted && a.StatusCode != http.StatusMultiStatus || json.Unmarshal(a.Bytes, &results) != nil || len(results.Results) != size {
		p.refused(n, a, err)
		return
	}
	for i, r := range results.Results {
		switch {
		case r.Error == nil && r.Spooled:
			p.spooled(n, drafts[i])
		case r.Error == nil:
			p.stored(n, drafts[i], r.Placed)
		default:
			p.H.End(n, Outcome(r.Error.Status), string(a.Bytes[:min(len(a.Bytes), 300)]), drafts[i].m)
		}
	}
}

func (p *Producer) begin(d Door, drafts ...draft) int {
	r := checker.Record{Op: checker.Publish, Phase: checker.Invoke, Client: fmt.Sprint("producer", p.N), Via: d.Name, Topic: p.InStore(), Once: p.keyed}
	for _, m := range drafts {
		r.Messages = append(r.Messages, m.m)
	}
	return p.H.Note(r)
}

func (p *Producer) stored(n int, m draft, at Placed) {
	m.m.Partition, m.m.Offset = at.Partition, at.Offset
	p.H.End(n, checker.OK, "", m.m)
	p.Produced.Add(1)
}

// spooled notes one that was answered 202: it has no place yet.
func (p *Producer) spooled(n int, m draft) {
	m.m.Nowhere = true
	p.H.End(n, checker.OK, "spooled", m.m)
	p.Produced.Add(1)
}

// refused notes a publish that was not answered 2xx as a whole.
func (p *Producer) refused(n int, a Reply, err error) {
	if err != nil {
		p.fail("publish: %v", err)
		p.H.End(n, Lost(err), err.Error())
		return
	}
	p.fail("publish: %s", a)
	p.H.End(n, Outcome(a.StatusCode), a.String())
}

// Outcome is what a status says of a request.
func Outcome(status int) checker.Phase {
	switch {
	case status < 300:
		return checker.OK
	case status < 500, status == http.StatusServiceUnavailable:
		return checker.Fail
	}
	return checker.Info
}

// Lost is what a broken request was.
func Lost(err error) checker.Phase {
	if errors.Is(err, syscall.ECONNREFUSED) {
		return checker.Fail // nobody was there to do it
	}
	return checker.Info
}

func (p *Producer) send(d Door, path string, body []byte, header ...string) (Reply, error) {
	c := Client{p.HTTP, d.Base, p.App}
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	return c.Exchange(ctx, "POST", path, bytes.NewReader(body), header...)
}

// Observed is a message as a client saw it, with what is wrong with it.
func Observed(value []byte, m checker.Message) checker.Message {
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

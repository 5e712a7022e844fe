package storm

import (
	"bufio"
	"bytes"
	"context"
	bin "encoding/binary" // binary is the gateway's
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kateway/kateway/test/checker"
)

// Habit is how a member of a group behaves.
type Habit struct {
	Name    string // unique within the group
	Kind    string // polls: raw, lines, frames, piggyback, offsets; streams: stream, sse, text; ws, wsraw
	Batch   int    // of a poll; default 10
	Wait    string // of a poll; default 1s
	client  string // client=
	Rotate  bool   // each request goes to the next door
	extra   string // more of the query
	Stay    time.Duration
	Verdict verdict
	door    *Door // its own way in, else the storm's
}

// verdict is what a member says of a message; nil acks each.
type verdict func(*rand.Rand, checker.Message) checker.Op

// Nothing leaves messages to their leases.
func Nothing(*rand.Rand, checker.Message) checker.Op { return "" }

// Kinds are the forms in which a group is read, by how it acks.
func Kinds(explicit bool) []string {
	if explicit {
		return []string{"raw", "lines", "piggyback", "stream", "sse", "ws"}
	}
	return []string{"raw", "lines", "frames", "stream", "sse", "text", "ws", "wsraw"}
}

// Member is a client of a group that comes back whenever its poll or stream has ended.
type Member struct {
	*Storm
	Habit
	Party *Party
	R     *rand.Rand
	HTTP  *http.Client
	Dial  func(ctx context.Context, network, addr string) (net.Conn, error) // of a WebSocket; nil: as usual
	Turn  int
	owed  []checker.Message // by a piggyback: to be acked with the next poll
}

// NewHTTP has connections of its own.
func NewHTTP(t *testing.T) *http.Client {
	tr := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 100}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// Join makes a member, which stays until the crew ends.
func (s *Storm) Join(c *Crew, p *Party, h Habit) {
	ctx := c.Life(s.T)
	m := &Member{Storm: s, Habit: h, Party: p, R: s.Random(p.Name + h.Name), HTTP: NewHTTP(s.T), Turn: int(s.seed%7) + len(h.Name)}
	if m.Batch == 0 {
		m.Batch = 10
	}
	if m.Wait == "" {
		m.Wait = "1s"
	}
	c.Wg.Go(func() {
		for ctx.Err() == nil {
			if !m.Once(ctx) { // it may be better in a moment
				select {
				case <-time.After(50 * time.Millisecond):
				case <-ctx.Done():
				}
			}
		}
		m.payUp()
		m.HTTP.CloseIdleConnections()
	})
}

// Once polls, or opens a stream and follows it to its end, and reports whether that went well.
func (m *Member) Once(ctx context.Context) bool {
	d := m.Door(m.Turn)
	if m.door != nil {
		d = *m.door
	}
	if m.Rotate {
		m.Turn++
	}
	switch m.Kind {
	case "stream", "sse", "text":
		return m.stream(ctx, d)
	case "ws", "wsraw":
		return m.socket(ctx, d)
	}
	return m.poll(d)
}

// Who is the member among all clients.
func (m *Member) Who() string { return m.Party.Name + "/" + m.Name }

// Query is what every request of the group says.
func (m *Member) Query() string {
	q := url.Values{"group": {m.Party.Name}, "mode": {m.Party.spec.Mode}, "lease": {m.Party.spec.Lease.String()}}
	if m.Party.spec.Explicit {
		q.Set("ack", "explicit")
	}
	if m.client != "" {
		q.Set("client", m.client)
	}
	if len(m.Party.spec.Tags) > 0 {
		q.Set("tag", strings.Join(m.Party.spec.Tags, ","))
	}
	return "?" + q.Encode() + m.extra
}

// record is one of this member's, at a door.
func (m *Member) record(op checker.Op, d Door, messages ...checker.Message) checker.Record {
	return checker.Record{Op: op, Phase: checker.Invoke, Client: m.Who(), Via: d.Name, Topic: m.InStore(), Group: m.Party.Name, Messages: messages}
}

// At speaks to who is behind the door.
func (m *Member) At(d Door) *Client { return &Client{m.HTTP, d.Base, m.App} }

// poll asks once and settles what came. It ends by itself: who stops in the midst of it would lose what is on its way.
func (m *Member) poll(d Door) bool {
	query, header := m.Query()+"&wait="+m.Wait, []string(nil)
	switch m.Kind {
	case "raw":
	case "frames":
		query += "&batch=" + strconv.Itoa(max(m.Batch, 2))
		header = []string{"Accept", "application/octet-stream"}
	default:
		query += "&batch=" + strconv.Itoa(m.Batch)
		header = []string{"Accept", "application/x-ndjson"}
	}
	acks, paid := 0, m.owed
	if len(paid) > 0 {
		header = append(header, "X-Receipt", receipts(paid))
		acks = m.H.Note(m.record(checker.Ack, d, paid...))
	}
	n := m.H.Note(m.record(checker.Poll, d))
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	a, err := m.At(d).Exchange(ctx, "GET", "/v1/msgs/"+m.App+"/"+m.Topic+"/v1"+query, nil, header...)
	got := m.Parse(a)
	switch {
	case err != nil:
		m.broke(m.Who(), err)
		m.H.End(n, checker.Info, err.Error(), got...)
	case a.StatusCode == http.StatusOK, a.StatusCode == http.StatusNoContent:
		m.H.End(n, checker.OK, "", got...)
	default:
		m.fail("%s polls: %s", m.Who(), a)
		m.H.End(n, Outcome(a.StatusCode), a.String())
	}
	if acks > 0 {
		m.paid(acks, a, err, paid)
	}
	if m.Kind == "piggyback" && m.Verdict == nil && err == nil {
		m.owed = got
		return len(got) > 0 || a.StatusCode < 300
	}
	return m.settle(d, got) && err == nil && a.StatusCode < 300
}

func receipts(list []checker.Message) string {
	all := make([]string, len(list))
	for i, m := range list {
		all[i] = m.Receipt
	}
	return strings.Join(all, ",")
}

// paid notes what became of the acks that a poll carried.
func (m *Member) paid(n int, a Reply, err error, list []checker.Message) {
	m.owed = nil
	if err != nil || a.StatusCode != http.StatusOK && a.StatusCode != http.StatusNoContent {
		m.H.End(n, checker.Info, "")
		return
	}
	var good, fenced, unknown []checker.Message
	named := func(header, receipt string) bool {
		return strings.Contains(","+a.Header.Get(header)+",", ","+receipt+",")
	}
	for _, w := range list {
		switch {
		case named("X-Receipt-Fenced", w.Receipt):
			fenced = append(fenced, w)
		case named("X-Receipt-Unknown", w.Receipt):
			unknown = append(unknown, w)
		default:
			good = append(good, w)
		}
	}
	m.endEach(n, checker.OK, good)
	m.endEach(n, checker.Fail, fenced)
	m.endEach(n, checker.Info, unknown)
}

func (m *Member) endEach(n int, phase checker.Phase, list []checker.Message) {
	if len(list) > 0 {
		m.H.End(n, phase, "", list...)
	}
}

// payUp acks what a piggyback has left.
func (m *Member) payUp() {
	if len(m.owed) > 0 {
		m.settle(m.Door(m.Turn), m.owed)
	}
}

// Parse reads the whole messages of an answer, which may have broken off.
func (m *Member) Parse(a Reply) (got []checker.Message) {
	if a.Response == nil || a.StatusCode != http.StatusOK {
		return nil
	}
	switch m.Kind {
	case "raw":
		if a.ContentLength >= 0 && len(a.Bytes) == int(a.ContentLength) {
			got = append(got, m.raw(a))
		}
	case "frames":
		for b := a.Bytes; len(b) >= 16; {
			size := int(bin.BigEndian.Uint32(b[12:]))
			if len(b) < 16+size {
				break
			}
			got = append(got, keyless(b[16:16+size], int32(bin.BigEndian.Uint32(b)), int64(bin.BigEndian.Uint64(b[4:]))))
			b = b[16+size:]
		}
	default:
		for line := range bytes.Lines(a.Bytes) {
			if w, ok := m.Object(line); ok {
				got = append(got, w)
			}
		}
	}
	return got
}

// keyless is a message of a form that has no key: what it says of itself is taken for true.
func keyless(value []byte, partition int32, offset int64) checker.Message {
	p, _ := checker.Parse(value)
	return Observed(value, checker.Message{Partition: partition, Offset: offset, Key: p.Key})
}

// raw is the message of a poll that brings one as it is.
func (m *Member) raw(a Reply) checker.Message {
	text := func(name string) string {
		s, err := url.PathUnescape(a.Header.Get(name))
		if err != nil {
			m.fail("%s: header %s: %v", m.Who(), name, err)
		}
		return s
	}
	partition, err1 := strconv.Atoi(text("X-Partition"))
	offset, err2 := strconv.ParseInt(text("X-Offset"), 10, 64)
	attempt, err3 := strconv.Atoi(text("X-Attempt"))
	if err := errors.Join(err1, err2, err3); err != nil {
		m.fail("%s: %v", m.Who(), err)
	}
	return proven(Observed(a.Bytes, checker.Message{
		Partition: int32(partition), Offset: offset, Key: text("X-Key"), Tag: text("X-Tag"), Attempt: attempt, Receipt: a.Header.Get("X-Receipt"),
	}), text("X-Msg-Proof"))
}

// beginning is what tells of a message that broke off which one it was.
var beginning = regexp.MustCompile(`^{"partition":(\d+),"offset":(\d+),`)

// Object reads a JSON object. Not ok: it is none, or something else than a message; one that broke off may tell which it was.
func (m *Member) Object(line []byte) (checker.Message, bool) {
	line = bytes.TrimRight(line, "\n")
	if len(line) == 0 {
		return checker.Message{}, false
	}
	var o struct {
		Event     string            `json:"event"`
		Code      string            `json:"code"`
		Partition int32             `json:"partition"`
		Offset    int64             `json:"offset"`
		Key       string            `json:"key"`
		Value     string            `json:"value"`
		Base64    []byte            `json:"value_base64"`
		Headers   map[string]string `json:"headers"`
		Attempt   int               `json:"attempt"`
		Receipt   string            `json:"receipt"`
		Cursor    string            `json:"cursor"`
	}
	if json.Unmarshal(line, &o) != nil {
		if at := beginning.FindSubmatch(line); at != nil && !bytes.HasSuffix(line, []byte("}")) {
			partition, err1 := strconv.Atoi(string(at[1]))
			offset, err2 := strconv.ParseInt(string(at[2]), 10, 64)
			return checker.Message{Partition: int32(partition), Offset: offset, Partial: true}, err1 == nil && err2 == nil
		}
		if bytes.HasSuffix(line, []byte("}")) {
			m.fail("%s: %.200q is no JSON", m.Who(), line)
		}
		return checker.Message{}, false
	}
	if o.Event != "" {
		m.event(o.Event, line)
		return checker.Message{}, false
	}
	if o.Cursor != "" { // of a reader without a group, which has no receipts
		o.Receipt = o.Cursor
	}
	value := []byte(o.Value)
	if o.Base64 != nil {
		value = o.Base64
	}
	return proven(Observed(value, checker.Message{
		Partition: o.Partition, Offset: o.Offset, Key: o.Key, Tag: o.Headers["tags"], Attempt: o.Attempt, Receipt: o.Receipt,
	}), o.Headers["proof"]), true
}

// event is something in a stream that is no message: nothing of that kind should happen.
func (m *Member) event(name string, line []byte) { m.fail("%s: event %s: %.300s", m.Who(), name, line) }

// settle says of each message what the member thinks of it, and reports whether the gateway could be asked.
func (m *Member) settle(d Door, got []checker.Message) bool {
	if !m.Party.spec.Explicit {
		return true
	}
	byOp := map[checker.Op][]checker.Message{}
	for _, w := range got {
		op := checker.Ack
		if m.Verdict != nil {
			op = m.Verdict(m.R, w)
		}
		if op != "" && !w.Partial {
			byOp[op] = append(byOp[op], w)
		}
	}
	ok := true
	for _, op := range []checker.Op{checker.Ack, checker.Nack, checker.Bury, checker.Extend} {
		if list := byOp[op]; len(list) > 0 {
			ok = m.say(d, op, list) && ok
		}
	}
	return ok
}

// settled is what a status says of a verb: of those that the group's home has not answered nobody knows.
func settled(status int) checker.Phase {
	if status >= 500 {
		return checker.Info
	}
	return Outcome(status)
}

// say settles a list with one verb: one message by headers, more by a body.
func (m *Member) say(d Door, op checker.Op, list []checker.Message) bool {
	path, body, header := "/v1/msgs/"+m.App+"/"+m.Topic+"/v1?group="+m.Party.Name, io.Reader(nil), []string(nil)
	if len(list) == 1 {
		path, header = path+"&op="+string(op), []string{"X-Receipt", list[0].Receipt}
	} else {
		var verbs []map[string]string
		for _, w := range list {
			verbs = append(verbs, map[string]string{"receipt": w.Receipt, "op": string(op)})
		}
		b, err := json.Marshal(verbs)
		if err != nil {
			panic(err)
		}
		body = bytes.NewReader(b)
	}
	n := m.H.Note(m.record(op, d, list...))
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	a, err := m.At(d).Exchange(ctx, "PUT", path, body, header...)
	var each struct {
		Results []struct {
			Error *struct {
				Status int `json:"status"`
			} `json:"error"`
		} `json:"results"`
	}
	switch {
	case err != nil:
		m.broke(m.Who(), err)
		m.H.End(n, Lost(err), err.Error())
		return false
	case json.Unmarshal(a.Bytes, &each) != nil || len(each.Results) != len(list):
		if a.StatusCode != http.StatusConflict {
			m.fail("%s settles: %s", m.Who(), a)
		}
		m.H.End(n, settled(a.StatusCode), a.String())
		return a.StatusCode < 500
	}
	for i, r := range each.Results {
		if r.Error == nil {
			m.H.End(n, checker.OK, "", list[i])
		} else {
			m.H.End(n, settled(r.Error.Status), strconv.Itoa(r.Error.Status), list[i])
		}
	}
	return true
}

// Leave ends what cut ends when the crew ends or the member has stayed long enough. It is noted before the other side can
// know of it. done ends the watch, and reports whether the member has left.
func (m *Member) Leave(ctx context.Context, n int, cut func()) (done func() bool) {
	leaving, cancel := context.WithCancel(ctx)
	if m.Stay > 0 {
		leaving, cancel = context.WithTimeout(ctx, m.Stay/2+time.Duration(m.R.Int64N(int64(m.Stay))))
	}
	noted := make(chan struct{})
	stop := context.AfterFunc(leaving, func() {
		m.H.End(n, checker.Info, "leaves")
		close(noted)
		cut()
	})
	return func() bool {
		defer cancel()
		if stop() {
			return false
		}
		<-noted
		return true
	}
}

// stream follows one to its end or until the member leaves.
func (m *Member) stream(ctx context.Context, d Door) bool {
	accept := map[string]string{"stream": "application/x-ndjson", "sse": "text/event-stream", "text": "text/plain"}[m.Kind]
	n := m.H.Note(m.record(checker.Stream, d))
	request, cut := context.WithCancel(context.Background())
	defer cut()
	resp, err := m.At(d).Open(request, "GET", "/v1/stream/"+m.App+"/"+m.Topic+"/v1"+m.Query(), nil, "Accept", accept)
	if err != nil {
		m.broke(m.Who(), err)
		m.H.End(n, Lost(err), err.Error())
		return false
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(resp.Body)
		m.fail("%s opens a stream: %s", m.Who(), Reply{resp, b})
		m.H.End(n, Outcome(resp.StatusCode), string(b))
		return false
	}
	done := m.Leave(ctx, n, cut)
	r := bufio.NewReader(resp.Body)
	for {
		got, err := m.chunk(r)
		if len(got) > 0 {
			m.H.Note(checker.Record{Op: checker.Chunk, Phase: checker.OK, Of: n, Client: m.Who(), Via: d.Name, Topic: m.InStore(), Group: m.Party.Name, Messages: got})
			m.settle(d, got)
		}
		if err == nil {
			continue
		}
		if done() {
			return true
		}
		if errors.Is(err, io.EOF) {
			m.H.End(n, checker.OK, "")
		} else {
			m.broke(m.Who(), err)
			m.H.End(n, checker.Info, err.Error())
		}
		return false
	}
}

// chunk reads what is at hand, at least one line.
func (m *Member) chunk(r *bufio.Reader) (got []checker.Message, err error) {
	for len(got) < 100 {
		line, err := r.ReadBytes('\n')
		if w, ok := m.Line(line, err == nil); ok {
			got = append(got, w)
		}
		if err != nil {
			return got, err
		}
		rest, _ := r.Peek(r.Buffered())
		if bytes.IndexByte(rest, '\n') < 0 {
			return got, nil
		}
	}
	return got, nil
}

// Line reads one line of a stream.
func (m *Member) Line(line []byte, whole bool) (checker.Message, bool) {
	switch m.Kind {
	case "text":
		if !whole || len(line) == 0 {
			return checker.Message{}, false
		}
		w := keyless(line[:len(line)-1], 0, 0)
		w.Nowhere = true
		return w, true
	case "sse":
		data, ok := bytes.CutPrefix(line, []byte("data: "))
		if !ok {
			return checker.Message{}, false
		}
		return m.Object(data)
	}
	return m.Object(line)
}

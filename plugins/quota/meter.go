package quota

import (
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/kateway/kateway/meta"
)

// meter knows what one app, key, topic or address does. Of each rate there is a bucket of tokens, filled as time goes by, up
// to the burst; what takes more than there is room for is let in when the bucket is full, and the bucket then owes it.
type meter struct {
	scope scope
	name  string // of the app; "" of other scopes and of what is counted together

	mu       sync.Mutex
	gone     bool      // no longer in its table: look again
	app      *meta.App // what the bounds were made of
	revision uint64    // of meta, that they were last compared with
	bounds   *bounds
	at       int64          // when the buckets were filled, in nanoseconds
	tokens   [rates]float64 // below zero where one owes
	share    float64        // of the rates, that is this gateway's
	asked    [rates]float64 // since the last exchange, refused or not
	demand   float64        // of the limit, in the second before that
	counts   counts
	others   counts // at other gateways
	topics   names  // that were made by their first use
	groups   names  // that have clients

	headerAt    int64
	headerValue []string
}

// counts are what is under way.
type counts struct {
	calls, streams int
	bytes          int64
}

// refusal is why a request is refused, and when to try again.
type refusal struct {
	what what
	wait time.Duration
}

const (
	countWait  = time.Second      // Retry-After of what waits for others to end
	groupLife  = time.Minute      // a group has clients for so long after the last one went
	topicLife  = time.Hour        // a topic counts for so long after its last use
	headerLife = time.Millisecond // a value of RateLimit is used again for so long
)

func newMeter(s scope, name string, app *meta.App, b *bounds, share float64, now int64) *meter {
	m := &meter{scope: s, name: name, app: app, bounds: b, share: share, at: now}
	for i := range m.tokens {
		m.tokens[i] = m.capacity(i)
	}
	return m
}

// capacity is how many tokens the bucket holds.
func (m *meter) capacity(i int) float64 { return m.bounds.rate[i] * m.share * m.bounds.burst }

// fill adds the tokens of the time since the last fill. The caller holds mu, as with all below.
func (m *meter) fill(now int64) {
	passed := float64(now-m.at) / float64(time.Second)
	if passed <= 0 {
		return
	}
	m.at = now
	for i, rate := range m.bounds.rate {
		if rate > 0 {
			m.tokens[i] = min(m.tokens[i]+rate*m.share*passed, m.capacity(i))
		}
	}
}

// lacks is how long it takes until the bucket has room for n; 0 where it has.
func (m *meter) lacks(i int, n float64) time.Duration {
	rate := m.bounds.rate[i]
	if rate == 0 {
		return 0
	}
	need := min(n, m.capacity(i))
	const dust = 1e-9 // of what floating point loses while filling
	if m.tokens[i] >= need*(1-dust) {
		return 0
	}
	return max(seconds((need-m.tokens[i])/(rate*m.share)), 1)
}

// take takes n of every rate, or nothing.
func (m *meter) take(n [rates]float64) refusal {
	for i := range n {
		m.asked[i] += n[i]
	}
	for i := range n {
		if n[i] == 0 {
			continue
		}
		if wait := m.lacks(i, n[i]); wait > 0 {
			return refusal{overRequests + what(i), wait}
		}
	}
	m.add(n, -1)
	return refusal{}
}

// add adds factor times n to the tokens.
func (m *meter) add(n [rates]float64, factor float64) {
	for i := range n {
		if m.bounds.rate[i] > 0 {
			m.tokens[i] += factor * n[i]
		}
	}
}

// refit changes what is limited, and keeps what was taken.
func (m *meter) refit(app *meta.App, b *bounds, now int64) {
	m.fill(now)
	old := m.bounds
	m.app, m.bounds = app, b
	for i := range m.tokens {
		if old.rate[i] == 0 {
			m.tokens[i] = m.capacity(i) // limited from now on
		}
		m.tokens[i] = min(m.tokens[i], m.capacity(i))
	}
}

// setShare changes which part of the rates is this gateway's. No tokens come of it: they come with time.
func (m *meter) setShare(share float64, now int64) {
	m.fill(now)
	m.share = share
	for i := range m.tokens {
		m.tokens[i] = min(m.tokens[i], m.capacity(i))
	}
}

// entry is what a request brings.
type entry struct {
	streams      int // 1 for a stream
	bytes        int64
	publish      bool
	topic, group uint64 // of a topic that is not registered, of a group; 0: none
}

// enter lets a request in, with all that it brings, or refuses it.
func (m *meter) enter(e *entry, now int64) refusal {
	m.fill(now)
	if e.publish && e.streams == 0 {
		// A body that could not be admitted need not be read.
		for i := messages; i < rates; i++ {
			if wait := m.lacks(i, 1); wait > 0 {
				m.asked[requests]++
				m.asked[messages]++
				m.asked[volume] += float64(e.bytes)
				return refusal{overRequests + what(i), wait}
			}
		}
	}
	if over := m.crowded(e, now); over != nothing {
		m.asked[requests]++
		return refusal{over, countWait}
	}
	if r := m.take([rates]float64{requests: 1}); r.what != nothing {
		return r
	}
	m.counts.calls++
	m.counts.streams += e.streams
	m.counts.bytes += e.bytes
	if m.bounds.Topics > 0 {
		m.topics.use(e.topic, now)
	}
	if m.bounds.Groups > 0 {
		m.groups.use(e.group, now)
	}
	return refusal{}
}

// crowded is which of the limits on what is under way leaves no room for it.
func (m *meter) crowded(e *entry, now int64) what {
	b, c, o := m.bounds, &m.counts, &m.others
	switch {
	case b.Calls > 0 && c.calls+o.calls+1 > b.Calls:
		return overCalls
	case b.Streams > 0 && e.streams > 0 && c.streams+o.streams+e.streams > b.Streams:
		return overStreams
	case !m.holds(e.bytes):
		return overInFlight
	case b.Topics > 0 && !m.topics.room(e.topic, b.Topics, now, topicLife):
		return overTopics
	case b.Groups > 0 && !m.groups.room(e.group, b.Groups, now, groupLife):
		return overGroups
	}
	return nothing
}

// holds reports whether there is room for so many more bytes. A single request always has it: how large one may be is
// limited elsewhere.
func (m *meter) holds(bytes int64) bool {
	limit, there := m.bounds.InFlight, m.counts.bytes+m.others.bytes
	return limit == 0 || bytes == 0 || there == 0 || there+bytes <= limit
}

// admit charges messages, and bytes more that are in flight, or refuses all of it.
func (m *meter) admit(n [rates]float64, more, now int64) refusal {
	m.fill(now)
	if !m.holds(more) {
		return refusal{overInFlight, countWait}
	}
	if r := m.take(n); r.what != nothing {
		return r
	}
	m.counts.bytes += more
	return refusal{}
}

// leave ends what enter began. bytes is what it holds by now.
func (m *meter) leave(e *entry, bytes, now int64) {
	m.counts.calls--
	m.counts.streams -= e.streams
	m.counts.bytes -= bytes
	m.topics.done(e.topic, now)
	m.groups.done(e.group, now)
}

// idle reports that the meter knows nothing that a new one would not.
func (m *meter) idle(now int64, life time.Duration) bool {
	if m.counts != (counts{}) || now-m.at < int64(life) || !m.topics.empty(now, topicLife) || !m.groups.empty(now, groupLife) {
		return false
	}
	for i, rate := range m.bounds.rate {
		if rate > 0 && m.tokens[i]+rate*m.share*float64(now-m.at)/float64(time.Second) < m.capacity(i) {
			return false
		}
	}
	return true
}

// tell puts into the header of an answer what is left: of an app, or of what has refused the request.
func (m *meter) tell(h http.Header, now int64, refused bool) {
	if m.bounds.policy == nil || m.scope != scopeApp && !refused {
		return
	}
	h["Ratelimit-Policy"] = m.bounds.policy
	h["Ratelimit"] = m.header(now)
}

// header is the value of RateLimit: of the rate that is nearest to its end. Values are made at most once a millisecond.
func (m *meter) header(now int64) []string {
	if m.headerValue != nil && now-m.headerAt < int64(headerLife) {
		return m.headerValue
	}
	worst, left := -1, 0.0
	for i, rate := range m.bounds.rate {
		if rate == 0 {
			continue
		}
		if part := m.tokens[i] / m.capacity(i); worst < 0 || part < left {
			worst, left = i, part
		}
	}
	if worst < 0 {
		return nil
	}
	full := (m.capacity(worst) - m.tokens[worst]) / (m.bounds.rate[worst] * m.share)
	text := make([]byte, 0, 48)
	text = append(text, '"')
	text = append(text, policyName(m.scope, worst)...)
	text = append(text, `";r=`...)
	text = strconv.AppendInt(text, int64(max(m.tokens[worst], 0)), 10)
	text = append(text, ";t="...)
	text = strconv.AppendInt(text, int64((seconds(full)+time.Second-1)/time.Second), 10)
	m.headerAt, m.headerValue = now, []string{string(text)}
	return m.headerValue
}

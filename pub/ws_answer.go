package pub

import (
	"encoding/json"
	"strconv"

	"github.com/kateway/kateway/internal/httpx"
	"github.com/kateway/kateway/internal/ws"
	"github.com/kateway/kateway/store"
)

// answers are the frames that answer the frames of a client, in their order.
type answers struct {
	conn *ws.Conn
	seq  int64 // of the last one
	buf  []byte

	known     httpx.Problem // the last problem and its JSON: after a fault many are the same
	knownJSON []byte
}

// stored answers a message that was stored: {"seq":1,"partition":0,"offset":42}; spooled: {"seq":1,"spooled":true}; or dropped:
// {"seq":1,"dropped":true}.
func (a *answers) stored(m *store.Message, f fate) {
	at := a.begin()
	switch {
	case f.dropped:
		a.buf = append(a.buf, `,"dropped":true`...)
	case m.Offset == store.Spooled:
		a.buf = append(a.buf, `,"spooled":true`...)
	}
	if f.dropped || m.Offset == store.Spooled {
		a.end(at)
		return
	}
	a.buf = append(a.buf, `,"partition":`...)
	a.buf = strconv.AppendInt(a.buf, int64(m.Partition), 10)
	a.buf = append(a.buf, `,"offset":`...)
	a.buf = strconv.AppendInt(a.buf, m.Offset, 10)
	a.buf = appendTopic(a.buf, f.to)
	a.end(at)
}

// failed answers one that was not, or may not have been: {"seq":1,"error":{problem}}.
func (a *answers) failed(err error) {
	if p := httpx.ProblemOf(err); a.knownJSON == nil || !p.Same(&a.known) {
		b, err := json.Marshal(p)
		if err != nil { // it has only texts and a number
			b = []byte("{}")
		}
		a.known, a.knownJSON = p, b
	}
	at := a.begin()
	a.buf = append(a.buf, `,"error":`...)
	a.buf = append(a.buf, a.knownJSON...)
	a.end(at)
}

func (a *answers) begin() (at int) {
	a.seq++
	at = len(a.buf)
	a.buf = append(ws.Begin(a.buf), `{"seq":`...)
	a.buf = strconv.AppendInt(a.buf, a.seq, 10)
	return at
}

func (a *answers) end(at int) { a.buf = a.conn.End(append(a.buf, '}'), at, ws.Text) }

package pub

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/httpx"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/store"
)

// answer tells a client what became of its messages. It returns the error that is to be the answer where nothing was stored.
func answer(w http.ResponseWriter, q *request, c *slab, err error) error {
	msgs := c.refs
	if q.format == formatSingle {
		if err = store.Each(err, 0); err != nil {
			return err
		}
		answerStored(w, msgs[0], c.fate(0).to)
		return nil
	}
	status := http.StatusCreated
	if anySpooled(msgs, err) {
		status = http.StatusAccepted
		w.Header()["X-Spooled"] = []string{"1"}
	}
	var batch *store.BatchError
	if err != nil {
		if !errors.As(err, &batch) {
			return err
		}
		if err := noneStored(batch); err != nil {
			return err
		}
		if anyIs(err, func(e error) bool { return e != nil }) {
			status = http.StatusMultiStatus
		}
	}
	body, encodeErr := appendResults(make([]byte, 0, 16+len(msgs)*40), c, err)
	if encodeErr != nil {
		return encodeErr
	}
	respond(w, status, body)
	return nil
}

// anySpooled reports whether a message is on the gateway's disk, to be stored later.
func anySpooled(msgs []*store.Message, err error) bool {
	for i, m := range msgs {
		if (err == nil || store.Each(err, i) == nil) && m.Offset == store.Spooled { // what failed may be the store's still
			return true
		}
	}
	return false
}

// noneStored is the error that answers a batch of which nothing was stored: that of an element whose outcome is unknown,
// else the first. nil where something was stored.
func noneStored(batch *store.BatchError) error {
	var first error
	for _, err := range batch.Errs {
		switch {
		case err == nil:
			return nil
		case first == nil, errs.Of(err) == errs.Uncertain && errs.Of(first) != errs.Uncertain:
			first = err
		}
	}
	if first == nil {
		return nil
	}
	return fmt.Errorf("none of %d messages was stored: %w", len(batch.Errs), first)
}

// answerStored answers a single message that is stored, or spooled: one allocation holds the values of all headers.
func answerStored(w http.ResponseWriter, m *store.Message, to meta.Topic) {
	if m.Offset == store.Spooled {
		w.Header()["X-Spooled"] = []string{"1"}
		respond(w, http.StatusAccepted, append(appendStored(make([]byte, 0, 64), m, to), '\n'))
		return
	}
	partition, offset := strconv.Itoa(int(m.Partition)), strconv.FormatInt(m.Offset, 10)
	values := &[2]string{partition, offset}
	h := w.Header()
	h["X-Partition"] = values[0:1:1]
	h["X-Offset"] = values[1:2:2]
	respond(w, http.StatusCreated, append(appendStored(make([]byte, 0, 64), m, to), '\n'))
}

// answerDropped answers a publish of which plugins have dropped all: nothing is stored, and nothing has failed.
func answerDropped(w http.ResponseWriter, q *request, c *slab) {
	body := []byte(dropped + "\n")
	if q.format != formatSingle {
		body, _ = appendResults(nil, c, nil) // there is no problem to encode
	}
	respond(w, http.StatusOK, body)
}

// dropped is what is answered for a message that the plugins dropped.
const dropped = `{"dropped":true}`

// respond writes a whole JSON body.
func respond(w http.ResponseWriter, status int, body []byte) {
	values := &[2]string{"application/json", strconv.Itoa(len(body))}
	h := w.Header()
	h["Content-Type"] = values[0:1:1]
	h["Content-Length"] = values[1:2:2]
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client may be gone; it is stored all the same
}

// appendStored appends where a message is; the topic too where plugins have sent it to another one than the client.
func appendStored(dst []byte, m *store.Message, to meta.Topic) []byte {
	if m.Offset == store.Spooled {
		return append(dst, `{"spooled":true}`...)
	}
	dst = append(dst, `{"partition":`...)
	dst = strconv.AppendInt(dst, int64(m.Partition), 10)
	dst = append(dst, `,"offset":`...)
	dst = strconv.AppendInt(dst, m.Offset, 10)
	return append(appendTopic(dst, to), '}')
}

// appendTopic appends the member that says where a message went that was sent elsewhere. Names need no escapes.
func appendTopic(dst []byte, to meta.Topic) []byte {
	if to == (meta.Topic{}) {
		return dst
	}
	dst = append(dst, `,"topic":"`...)
	dst = append(dst, to.String()...)
	return append(dst, '"')
}

// appendResults appends {"results":[...]}, an entry per message.
func appendResults(dst []byte, c *slab, err error) ([]byte, error) {
	dst = append(dst, `{"results":[`...)
	var known httpx.Problem // the last problem and its JSON: after a fault many are the same
	var knownJSON []byte
	for i, m := range c.refs {
		if i > 0 {
			dst = append(dst, ',')
		}
		f := c.fate(i)
		if f.dropped {
			dst = append(dst, dropped...)
			continue
		}
		var failure error
		if err != nil {
			failure = store.Each(err, i)
		}
		if failure == nil {
			dst = appendStored(dst, m, f.to)
			continue
		}
		if p := httpx.ProblemOf(failure); knownJSON == nil || !p.Same(&known) {
			b, err := json.Marshal(p)
			if err != nil {
				return nil, fmt.Errorf("encoding a problem: %w", err)
			}
			known, knownJSON = p, b
		}
		dst = append(dst, `{"error":`...)
		dst = append(dst, knownJSON...)
		dst = append(dst, '}')
	}
	return append(dst, "]}\n"...), nil
}

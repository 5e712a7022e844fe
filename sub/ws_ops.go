package sub

import (
	"bytes"
	stdjson "encoding/json"
	"fmt"

	"github.com/go-json-experiment/json"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/httpx"
	"github.com/kateway/kateway/internal/ws"
)

const (
	maxSocketVerbs = 1000 // in one message of a client
	maxTogether    = 256  // acks that are settled as one
	ackRoom        = 128  // bytes: an ack that is at hand is not longer
	maxBlunders    = 10   // messages that can't be understood; then the client is sent away
)

// receipted is a verb whose receipt has not been opened.
type receipted struct {
	receipt string
	verb    group.Verb // without its Ref
}

// errorEvent tells a client what did not work.
type errorEvent struct {
	Event   string        `json:"event"`
	Receipt string        `json:"receipt,omitempty"`
	Error   httpx.Problem `json:"error"`
}

// read is the reader: it does what the client says, and tells it of what failed. What worked has no answer.
func (s *socket) read() error {
	for {
		kind, data, err := s.conn.Next()
		for receipt, ok := plainAck(kind, data); err == nil && ok; receipt, ok = plainAck(kind, data) {
			kind, data, err = s.takeAcks(receipt)
		}
		if err != nil {
			return err
		}
		if kind == 0 {
			continue
		}
		if err := s.take(kind, data); err != nil {
			return err
		}
	}
}

// takeAcks settles an ack, and together with it those that are at hand behind it. It answers the message after them, where that
// is at hand too and no ack; kind 0: it is not.
func (s *socket) takeAcks(receipt []byte) (kind ws.Kind, data []byte, err error) {
	c := s.h.getChunk()
	defer s.h.putChunk(c)
	if cap(c.coded) < ackRoom {
		c.coded = make([]byte, 0, ackRoom)
	}
	ends := c.at[:0] // of the receipts in c.buf
	for ok := true; ok; {
		c.buf = append(c.buf, receipt...)
		if ends = append(ends, len(c.buf)); len(ends) == maxTogether || !s.conn.Ready() {
			kind, data = 0, nil
			break
		}
		kind, data, err = s.conn.NextIn(c.coded[:0])
		receipt, ok = plainAck(kind, data)
		ok = ok && err == nil
	}
	text, from := string(c.buf), 0
	for _, to := range ends {
		c.said = append(c.said, receipted{text[from:to], group.Verb{Op: group.Ack}})
		from = to
	}
	c.at = ends
	if bad := s.settle(c, c.said); bad != nil {
		err = bad
	}
	return kind, bytes.Clone(data), err // the chunk is given back
}

// take does what one message of the client says. An error is the end.
func (s *socket) take(kind ws.Kind, data []byte) error {
	list, err := parseVerbs(kind, data)
	if err != nil {
		s.blunder++
		if err := s.tell("", err); err != nil || s.blunder < maxBlunders {
			return err
		}
		return ws.Close(ws.PolicyViolation, "too many messages that can't be understood")
	}
	var good []receipted
	for _, v := range list {
		verb, err := v.verb()
		if err == nil {
			good = append(good, receipted{v.Receipt, verb})
		} else if err := s.tell(v.Receipt, err); err != nil {
			return err
		}
	}
	if len(good) == 0 {
		return nil
	}
	c := s.h.getChunk()
	defer s.h.putChunk(c)
	return s.settle(c, good)
}

// settle does the verbs, and tells of those that failed. The chunk is lent to the feed.
func (s *socket) settle(c *chunk, good []receipted) error {
	for i, err := range s.feed.settle(s.ctx, c, good) {
		if err == nil {
			continue
		}
		if err := s.tell(good[i].receipt, err); err != nil {
			return err
		}
	}
	return nil
}

// tell sends an error event. It waits until the connection takes it: a client that only asks and never reads is cut off.
func (s *socket) tell(receipt string, why error) error {
	text, err := stdjson.Marshal(errorEvent{Event: "error", Receipt: receipt, Error: httpx.ProblemOf(why)})
	if err != nil {
		return fmt.Errorf("encoding an event: %w", err)
	}
	return s.conn.Write(s.conn.End(append(ws.Begin(nil), text...), 0, ws.Text))
}

// plainAck reads what nearly all messages of clients are, without the cost of reading JSON: an ack of one message, spelled as in
// the documents. Not ok: parseVerbs is to look at it.
func plainAck(kind ws.Kind, data []byte) (receipt []byte, ok bool) {
	const before, after = `{"op":"ack","receipt":"`, `"}`
	if kind != ws.Text || len(data) <= len(before)+len(after) || string(data[:len(before)]) != before || string(data[len(data)-len(after):]) != after {
		return nil, false
	}
	data = data[len(before) : len(data)-len(after)]
	for _, c := range data {
		if c <= ' ' || c == '"' || c == '\\' || c >= 0x7f {
			return nil, false
		}
	}
	return data, true
}

// parseVerbs reads a client's message: one object or a list of them, of known fields, none twice. Kinds InvalidBody, TooLarge.
func parseVerbs(kind ws.Kind, data []byte) (list []verbJSON, err error) {
	if kind != ws.Text {
		return nil, fmt.Errorf("a binary message: what you say of messages is text: %w", errs.InvalidBody)
	}
	strict := json.RejectUnknownMembers(true)
	if data = bytes.TrimLeft(data, " \t\r\n"); len(data) > 0 && data[0] == '[' {
		err = json.Unmarshal(data, &list, strict)
	} else {
		var one *verbJSON
		if err = json.Unmarshal(data, &one, strict); err == nil && one != nil {
			list = []verbJSON{*one}
		}
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf(`must be {"op":"ack","receipt":"..."} or a list of them: %.300s: %w`, err.Error(), errs.InvalidBody)
	case len(list) == 0:
		return nil, fmt.Errorf("says nothing: %w", errs.InvalidBody)
	case len(list) > maxSocketVerbs:
		return nil, fmt.Errorf("%d elements, at most %d: %w", len(list), maxSocketVerbs, errs.TooLarge)
	}
	return list, nil
}

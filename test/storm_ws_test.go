package test

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"github.com/kateway/kateway/test/checker"
)

// socket is a member on a WebSocket: it acks by frames. The gateway answers those only that fail, so that of the others
// nobody knows.
type socket struct {
	*member
	conn *websocket.Conn
	door door
	said map[string]int
}

func (m *member) socket(ctx context.Context, d door) bool {
	n := m.h.Note(m.record(checker.Stream, d))
	query := m.query()
	if m.kind == "wsraw" {
		query += "&format=raw"
	}
	dialer := websocket.Dialer{HandshakeTimeout: patience, NetDialContext: m.dial}
	conn, resp, err := dialer.Dial("ws"+strings.TrimPrefix(d.base, "http")+"/v1/ws/msgs/"+m.app+"/"+m.topic+"/v1"+query, http.Header{"Appid": {m.app}})
	if err != nil {
		phase := lost(err)
		if resp != nil {
			m.fail("%s opens a WebSocket: %s", m.who(), resp.Status)
			phase = outcome(resp.StatusCode)
		}
		m.h.End(n, phase, err.Error())
		return false
	}
	defer conn.Close()
	s := &socket{member: m, conn: conn, door: d, said: map[string]int{}}
	done := m.leave(ctx, n, func() { conn.Close() })
	for {
		kind, frame, err := conn.ReadMessage()
		if err != nil {
			if done() {
				return true
			}
			if websocket.IsCloseError(err, websocket.CloseNormalClosure, websocket.CloseGoingAway, websocket.CloseServiceRestart) {
				m.h.End(n, checker.OK, err.Error())
			} else {
				m.broke(m.who(), err)
				m.h.End(n, checker.Info, err.Error())
			}
			return false
		}
		s.frame(n, kind, frame)
	}
}

// frame takes one message, or the answer to a verb.
func (s *socket) frame(n, kind int, frame []byte) {
	var w checker.Message
	switch {
	case kind == websocket.BinaryMessage:
		w = keyless(frame, 0, 0)
		w.Nowhere = true
	case s.refusal(frame):
		return
	default:
		var ok bool
		if w, ok = s.object(frame); !ok {
			return
		}
	}
	s.h.Note(checker.Record{Op: checker.Chunk, Phase: checker.OK, Of: n, Client: s.who(), Via: s.door.name, Topic: s.inStore(), Group: s.party.name, Messages: []checker.Message{w}})
	op := checker.Ack
	if s.verdict != nil {
		op = s.verdict(s.r, w)
	}
	if s.party.spec.Explicit && op != "" {
		s.verb(op, w)
	}
}

// refusal reads the answer to a verb that did not take effect.
func (s *socket) refusal(frame []byte) bool {
	var e struct{ Event, Receipt string }
	if json.Unmarshal(frame, &e) != nil || e.Event != "error" {
		return false
	}
	if n, ok := s.said[e.Receipt]; ok {
		s.h.End(n, checker.Fail, string(frame))
	}
	return true
}

func (s *socket) verb(op checker.Op, w checker.Message) {
	s.said[w.Receipt] = s.h.Note(s.record(op, s.door, w))
	_ = s.conn.SetWriteDeadline(time.Now().Add(patience))
	if err := s.conn.WriteJSON(map[string]string{"op": string(op), "receipt": w.Receipt}); err != nil {
		s.h.End(s.said[w.Receipt], checker.Info, err.Error())
	}
}

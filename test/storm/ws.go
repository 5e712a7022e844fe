package storm

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
	*Member
	conn *websocket.Conn
	door Door
	said map[string]int
}

func (m *Member) socket(ctx context.Context, d Door) bool {
	n := m.H.Note(m.record(checker.Stream, d))
	query := m.Query()
	if m.Kind == "wsraw" {
		query += "&format=raw"
	}
	dialer := websocket.Dialer{HandshakeTimeout: Patience, NetDialContext: m.Dial}
	conn, resp, err := dialer.Dial("ws"+strings.TrimPrefix(d.Base, "http")+"/v1/ws/msgs/"+m.App+"/"+m.Topic+"/v1"+query, http.Header{"Appid": {m.App}})
	if err != nil {
		phase := Lost(err)
		if resp != nil {
			m.fail("%s opens a WebSocket: %s", m.Who(), resp.Status)
			phase = Outcome(resp.StatusCode)
		}
		m.H.End(n, phase, err.Error())
		return false
	}
	defer conn.Close()
	s := &socket{Member: m, conn: conn, door: d, said: map[string]int{}}
	done := m.Leave(ctx, n, func() { conn.Close() })
	for {
		kind, frame, err := conn.ReadMessage()
		if err != nil {
			if done() {
				return true
			}
			if websocket.IsCloseError(err, websocket.CloseNormalClosure, websocket.CloseGoingAway, websocket.CloseServiceRestart) {
				m.H.End(n, checker.OK, err.Error())
			} else {
				m.broke(m.Who(), err)
				m.H.End(n, checker.Info, err.Error())
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
		if w, ok = s.Object(frame); !ok {
			return
		}
	}
	s.H.Note(checker.Record{Op: checker.Chunk, Phase: checker.OK, Of: n, Client: s.Who(), Via: s.door.Name, Topic: s.InStore(), Group: s.Party.Name, Messages: []checker.Message{w}})
	op := checker.Ack
	if s.Verdict != nil {
		op = s.Verdict(s.R, w)
	}
	if s.Party.spec.Explicit && op != "" {
		s.verb(op, w)
	}
}

// refusal reads the answer to a verb that did not take effect.
func (s *socket) refusal(frame []byte) bool {
	var e struct{ Event, Receipt, Code string }
	if json.Unmarshal(frame, &e) != nil || e.Event != "error" {
		return false
	}
	if n, ok := s.said[e.Receipt]; ok {
		phase := checker.Info
		if e.Code == "fenced" {
			phase = checker.Fail
		}
		s.H.End(n, phase, string(frame))
	}
	return true
}

func (s *socket) verb(op checker.Op, w checker.Message) {
	s.said[w.Receipt] = s.H.Note(s.record(op, s.door, w))
	_ = s.conn.SetWriteDeadline(time.Now().Add(Patience))
	if err := s.conn.WriteJSON(map[string]string{"op": string(op), "receipt": w.Receipt}); err != nil {
		s.H.End(s.said[w.Receipt], checker.Info, err.Error())
	}
}

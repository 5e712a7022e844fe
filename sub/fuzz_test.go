package sub

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/kateway/kateway/internal/ws"
)

// FuzzVerbs: a client's WebSocket message is refused, or JSON of at least one thing to do.
func FuzzVerbs(f *testing.F) {
	f.Add([]byte(`{"op":"ack","receipt":"AAAA"}`))
	f.Add([]byte(`[{"op":"nack","receipt":"A","delay":"1s"},{"op":"extend","receipt":"B","lease":"30s"}]`))
	f.Add([]byte(`{"op":"ack","op":"nack"}`))
	f.Add([]byte(` null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := parseVerbs(ws.Text, bytes.Clone(data))
		if err == nil && (len(list) == 0 || len(list) > maxSocketVerbs || !json.Valid(data)) {
			t.Fatalf("%q is taken for %+v", data, list)
		}
	})
}

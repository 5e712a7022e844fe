package gateway_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/gorilla/websocket"
)

// TestSchemaByEveryWay: what the schema does not allow is stored by no way of publishing, and the answer has each fault.
func TestSchemaByEveryWay(t *testing.T) {
	g := serveForOpenAPI(t, "schema")
	man, pub := "http://"+g.Addr("man"), "http://"+g.Addr("pub")
	header := http.Header{"Content-Type": {"application/json"}}
	ask := func(status int, method, url, body, want string) {
		t.Helper()
		r, b := callOpenAPI(t, method, url, body, header)
		if r.StatusCode != status || !strings.Contains(string(b), want) {
			t.Errorf("%s %s: %d %s, want %d %s", method, url, r.StatusCode, b, status, want)
		}
	}
	ask(201, http.MethodPost, man+"/v1/topics", `{"app":"default","topic":"orders","ver":"v1","partitions":1}`, "")
	ask(201, http.MethodPut, man+"/v1/topics/default/orders/v1/schema", `{"type":"json","text":"{\"required\":[\"id\"]}"}`, `"id":1`)
	const path = "/v1/msgs/orders/v1"
	const fault = `"errors":[{"path":"/id","message":"is required"}]`
	ask(201, http.MethodPost, pub+path, `{"id":1}`, "")
	ask(422, http.MethodPost, pub+path, `{}`, fault)
	ask(422, http.MethodPost, pub+path+"?async=1", `{}`, fault)
	for format, body := range map[string]string{
		"array": `[{"id":1},{}]`, "lines": "{\"id\":1}\n{}\n", "frames": "\x00\x00\x00\x08{\"id\":1}\x00\x00\x00\x02{}",
		"objects": `{"value":{"id":1}}` + "\n" + `{"value":{}}`,
	} {
		ask(422, http.MethodPost, pub+path+"?batch="+format, body, `"path":"/1/id"`)
	}
	conn, _, err := websocket.DefaultDialer.DialContext(t.Context(), "ws"+pub[4:]+"/v1/ws/pub/orders/v1", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, text := range []string{`{}`, `{"id":2}`} {
		if err := conn.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{fault, `{"seq":2,"partition":0,"offset":1}`} {
		if _, b, err := conn.ReadMessage(); err != nil || !strings.Contains(string(b), want) {
			t.Errorf("%s, %v; want %s", b, err, want)
		}
	}
	ask(204, http.MethodDelete, man+"/v1/topics/default/orders/v1/schema", "", "")
	ask(201, http.MethodPost, pub+path, `{}`, `"offset":2`)
}

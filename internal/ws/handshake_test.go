package ws

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/kateway/kateway/internal/errs"
)

// ask is what Ask says of a good request with these changes: "Name: value" sets, "Name:" removes, and "+Name: value" adds.
func ask(changes ...string) (Handshake, *http.Request, error) {
	r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
	r.Header = http.Header{
		"Connection": {"keep-alive, Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="},
	}
	for _, c := range changes {
		name, value, _ := strings.Cut(c, ":")
		value = strings.TrimSpace(value)
		switch add, found := strings.CutPrefix(name, "+"); {
		case found:
			r.Header.Add(add, value)
		case value == "":
			r.Header.Del(name)
		case name == "HTTP":
			r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/"+value, int(value[0]-'0'), int(value[2]-'0')
		case name == "Length":
			r.ContentLength = 1
		default:
			r.Header.Set(name, value)
		}
	}
	h, err := Ask(r)
	return h, r, err
}

func TestHandshakes(t *testing.T) {
	for _, c := range []struct {
		change string
		want   errs.Kind // 0: good
	}{
		{"Connection: upgrade", 0},
		{"Connection: UPGRADE ,close", 0},
		{"+Connection: close", 0},
		{"Connection: close", errs.UpgradeRequired},
		{"Connection: upgraded", errs.UpgradeRequired},
		{"Connection:", errs.UpgradeRequired},
		{"Upgrade: WebSocket", 0},
		{"Upgrade: h2c, websocket", 0},
		{"Upgrade: h2c", errs.UpgradeRequired},
		{"Upgrade:", errs.UpgradeRequired},
		{"Sec-WebSocket-Version: 8", errs.UpgradeRequired},
		{"Sec-WebSocket-Version: 13, 8", errs.UpgradeRequired},
		{"+Sec-WebSocket-Version: 13", errs.UpgradeRequired},
		{"Sec-WebSocket-Version:", errs.UpgradeRequired},
		{"Sec-WebSocket-Key:", errs.InvalidParam},
		{"Sec-WebSocket-Key: short", errs.InvalidParam},
		{"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ", errs.InvalidParam},
		{"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZR==", errs.InvalidParam}, // bits behind the end
		{"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZTE=", errs.InvalidParam}, // 17 bytes
		{"+Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", errs.InvalidParam},
		{"HTTP: 1.0", errs.InvalidParam},
		{"HTTP: 2.0", errs.InvalidParam},
		{"Length: 1", errs.InvalidBody},
		{"Sec-WebSocket-Protocol: chat, superchat", 0},
		{"Sec-WebSocket-Protocol: cha t", errs.InvalidParam},
		{"Sec-WebSocket-Protocol: bearer.a, ", errs.InvalidParam},
		{"Sec-WebSocket-Extensions: permessage-deflate;", errs.InvalidParam},
		{"Sec-WebSocket-Extensions: ;", errs.InvalidParam},
		{"Sec-WebSocket-Extensions: a b", errs.InvalidParam},
		{`Sec-WebSocket-Extensions: a;b="c`, errs.InvalidParam},
		{`Sec-WebSocket-Extensions: a;b="c d"`, errs.InvalidParam},
		{`Sec-WebSocket-Extensions: a;b=`, errs.InvalidParam},
	} {
		_, _, err := ask(c.change)
		if c.want == 0 && err != nil || c.want != 0 && !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.change, err, c.want)
		}
	}
	if got := acceptKey("dGhlIHNhbXBsZSBub25jZQ=="); got != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" { // RFC 6455, 1.3
		t.Errorf("accepted with %s", got)
	}
}

func TestDeflateIsChosen(t *testing.T) {
	const yes = deflateAnswer
	for offer, want := range map[string]string{
		"permessage-deflate":                                                         yes,
		"permessage-deflate; client_max_window_bits":                                 yes,
		`permessage-deflate; client_max_window_bits="10"`:                            yes,
		"permessage-deflate; client_max_window_bits=15":                              yes,
		"permessage-deflate; client_max_window_bits=7":                               "",
		"permessage-deflate; client_max_window_bits=16":                              "",
		"permessage-deflate; client_max_window_bits=08":                              "",
		"permessage-deflate; server_max_window_bits=15":                              yes + "; server_max_window_bits=15",
		"permessage-deflate; server_max_window_bits=10":                              "",
		"permessage-deflate; server_max_window_bits":                                 "",
		"permessage-deflate; server_max_window_bits=10, permessage-deflate":          yes, // the second best
		"permessage-deflate; server_no_context_takeover":                             yes,
		"permessage-deflate; server_no_context_takeover=1":                           "",
		"permessage-deflate; client_no_context_takeover":                             yes,
		"permessage-deflate; client_no_context_takeover; client_no_context_takeover": "",
		"permessage-deflate; x":                                                      "",
		"x-webkit-deflate-frame, permessage-deflate":                                 yes,
		"permessage-bzip2":                                                           "",
	} {
		if h, _, err := ask("Sec-WebSocket-Extensions: " + offer); err != nil || h.extension != want {
			t.Errorf("%s: %q, %v; want %q", offer, h.extension, err, want)
		}
	}
}

func TestTokenAsSubprotocol(t *testing.T) {
	h, r, err := ask("Sec-WebSocket-Protocol: chat, bearer.a-b_c.d", "+Sec-WebSocket-Protocol: bearer.other")
	if err != nil || h.protocol != "bearer.a-b_c.d" || r.Header.Get("Authorization") != "Bearer a-b_c.d" {
		t.Errorf("%+v, %v, %q", h, err, r.Header.Get("Authorization"))
	}
	h, r, err = ask("Sec-WebSocket-Protocol: bearer.a", "Authorization: Basic xyz")
	if err != nil || h.protocol != "bearer.a" || r.Header.Get("Authorization") != "Basic xyz" {
		t.Errorf("%+v, %v, %q", h, err, r.Header.Get("Authorization"))
	}
	if h, r, err = ask("Sec-WebSocket-Protocol: chat"); err != nil || h.protocol != "" || r.Header.Get("Authorization") != "" {
		t.Errorf("%+v, %v", h, err)
	}
}

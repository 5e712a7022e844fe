package ws

import (
	"bufio"
	"crypto/sha1" //nolint:gosec // RFC 6455, 4.2.2, says so; nothing is guarded by it
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/online"
)

const (
	acceptGUID    = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
	bearerPrefix  = "bearer."
	extDeflate    = "permessage-deflate"
	serverNoTake  = "server_no_context_takeover"
	clientNoTake  = "client_no_context_takeover"
	serverWindow  = "server_max_window_bits"
	clientWindow  = "client_max_window_bits"
	deflateAnswer = extDeflate + "; " + serverNoTake + "; " + clientNoTake
)

// Handshake is a client's wish to open a WebSocket, checked.
type Handshake struct {
	key       string
	protocol  string // the subprotocol that is accepted, "" for none
	extension string // permessage-deflate as it is accepted, "" for not at all
}

// Ask reads and checks what a client asks for. A client that can set no headers may offer its token as the subprotocol
// bearer.<token>: without a header Authorization the request is given one that says Bearer <token>.
// Kinds: UpgradeRequired for what is no WebSocket handshake of version 13; InvalidParam for a bad one, and for HTTP/2.
func Ask(r *http.Request) (Handshake, error) {
	var h Handshake
	if r.ProtoMajor != 1 || r.ProtoMinor < 1 {
		return h, fmt.Errorf("%s: WebSockets are served over HTTP/1.1 only: use it for this request: %w", r.Proto, errs.InvalidParam)
	}
	if !hasToken(r.Header["Connection"], "upgrade") || !hasToken(r.Header["Upgrade"], "websocket") {
		return h, fmt.Errorf("this is a WebSocket: send Connection: Upgrade and Upgrade: websocket: %w", errs.UpgradeRequired)
	}
	if v := r.Header["Sec-Websocket-Version"]; len(v) != 1 || v[0] != "13" {
		return h, fmt.Errorf("Sec-WebSocket-Version: there is 13 only: %w", errs.UpgradeRequired)
	}
	keys := r.Header["Sec-Websocket-Key"]
	if len(keys) != 1 || !isKey(keys[0]) {
		return h, fmt.Errorf("Sec-WebSocket-Key: must be given once, 16 bytes in base64: %w", errs.InvalidParam)
	}
	h.key = keys[0]
	if r.ContentLength != 0 {
		return h, fmt.Errorf("the request that opens a WebSocket has no body: %w", errs.InvalidBody)
	}
	offers, ok := parseOffers(r.Header["Sec-Websocket-Extensions"])
	if !ok {
		return h, fmt.Errorf("Sec-WebSocket-Extensions: malformed: %w", errs.InvalidParam)
	}
	h.extension = chooseDeflate(offers)
	return h, h.chooseProtocol(r)
}

func isKey(s string) bool {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	return err == nil && len(b) == 16
}

// hasToken reports whether the comma-separated lists have the token, in lower case.
func hasToken(values []string, token string) bool {
	for _, v := range values {
		for part := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.Trim(part, " \t"), token) {
				return true
			}
		}
	}
	return false
}

// chooseProtocol accepts the first subprotocol that carries a token. There are no others.
func (h *Handshake) chooseProtocol(r *http.Request) error {
	for _, v := range r.Header["Sec-Websocket-Protocol"] {
		for part := range strings.SplitSeq(v, ",") {
			p := strings.Trim(part, " \t")
			if !isToken(p) {
				return fmt.Errorf("Sec-WebSocket-Protocol: malformed: %w", errs.InvalidParam)
			}
			if h.protocol == "" && strings.HasPrefix(p, bearerPrefix) {
				h.protocol = p
			}
		}
	}
	if h.protocol != "" && r.Header["Authorization"] == nil {
		r.Header["Authorization"] = []string{"Bearer " + h.protocol[len(bearerPrefix):]}
	}
	return nil
}

// Config is what a connection allows its client.
type Config struct {
	Limit  int   // bytes of a message, inflated; a larger one is passed over or ends the connection, see Skip
	Skip   int64 // a message of up to so many bytes on the wire is passed over, and Next answers ErrTooLarge; 0: Limit
	Buffer int   // bytes that are read at once, in a buffer that an idle connection does not keep; at least 256

	Sockets *Sockets // where it is counted while it is served; may be nil
}

// Accept answers the handshake: from here on the connection is a WebSocket, and to be served. What the handler put into
// the answer's header goes out with it. After an error there may be half an answer out; the handler returns the error.
func (h *Handshake) Accept(w http.ResponseWriter, r *http.Request, cfg Config) (*Conn, error) {
	head := w.Header()
	head["Upgrade"], head["Connection"] = []string{"websocket"}, []string{"Upgrade"}
	head["Sec-WebSocket-Accept"] = []string{acceptKey(h.key)} // spelled as in the RFC: not every client compares names as it should
	if h.protocol != "" {
		head["Sec-WebSocket-Protocol"] = []string{h.protocol}
	}
	if h.extension != "" {
		head["Sec-WebSocket-Extensions"] = []string{h.extension}
	}
	w.WriteHeader(http.StatusSwitchingProtocols)
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, fmt.Errorf("taking the connection: %w", err)
	}
	c := &Conn{conn: conn, online: online.Of(r.Context()), cfg: cfg, deflate: h.extension != ""}
	c.cfg.Skip = max(c.cfg.Skip, int64(cfg.Limit))
	if n := rw.Reader.Buffered(); n > 0 { // frames that came along with the handshake
		early, _ := rw.Peek(n)
		c.early = append(c.early, early...)
	}
	// net/http keeps its two buffers of 4 KiB as long as the handler runs. So they are replaced from within.
	*rw.Writer, *rw.Reader = bufio.Writer{}, bufio.Reader{}
	return c, nil
}

func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + acceptGUID)) //nolint:gosec // see above
	return base64.StdEncoding.EncodeToString(sum[:])
}

// offer is an extension that a client offers.
type offer struct {
	name   string
	params []param
}

type param struct {
	name, value string
	given       bool // there is a value
}

// parseOffers reads Sec-WebSocket-Extensions (RFC 6455, 9.1).
func parseOffers(values []string) (list []offer, ok bool) {
	for _, v := range values {
		s := scanner{v}
		for {
			o, ok := s.offer()
			if !ok {
				return nil, false
			}
			list = append(list, o)
			if s.rest == "" {
				break
			}
			if !s.skip(',') {
				return nil, false
			}
		}
	}
	return list, true
}

// scanner reads a header's value from left to right.
type scanner struct{ rest string }

func (s *scanner) space() { s.rest = strings.TrimLeft(s.rest, " \t") }

// skip passes over the byte and the space around it, if it is there.
func (s *scanner) skip(c byte) bool {
	s.space()
	if s.rest == "" || s.rest[0] != c {
		return false
	}
	s.rest = s.rest[1:]
	s.space()
	return true
}

func (s *scanner) token() (string, bool) {
	n := 0
	for n < len(s.rest) && isTokenByte(s.rest[n]) {
		n++
	}
	t := s.rest[:n]
	s.rest = s.rest[n:]
	return t, n > 0
}

func (s *scanner) offer() (o offer, ok bool) {
	s.space()
	if o.name, ok = s.token(); !ok {
		return o, false
	}
	for s.skip(';') {
		var p param
		if p.name, ok = s.token(); !ok {
			return o, false
		}
		if p.given = s.skip('='); p.given {
			if p.value, ok = s.value(); !ok {
				return o, false
			}
		}
		o.params = append(o.params, p)
	}
	s.space()
	return o, true
}

// value reads a token, or a quoted string whose inside is one.
func (s *scanner) value() (string, bool) {
	if s.rest == "" || s.rest[0] != '"' {
		return s.token()
	}
	s.rest = s.rest[1:]
	var v []byte
	for i := 0; i < len(s.rest); i++ {
		switch c := s.rest[i]; c {
		case '"':
			s.rest = s.rest[i+1:]
			return string(v), isToken(string(v))
		case '\\':
			if i++; i < len(s.rest) {
				v = append(v, s.rest[i])
			}
		default:
			v = append(v, c)
		}
	}
	return "", false
}

// chooseDeflate answers the first offer of permessage-deflate that can be met, "" where there is none. What we send has a
// window of 32 KiB, so that a smaller one can't be promised.
func chooseDeflate(offers []offer) string {
	for _, o := range offers {
		if o.name != extDeflate {
			continue
		}
		answer, seen, ok := deflateAnswer, map[string]bool{}, true
		for _, p := range o.params {
			ok = ok && !seen[p.name] && canMeet(p)
			seen[p.name] = true
		}
		if !ok {
			continue
		}
		if seen[serverWindow] {
			answer += "; " + serverWindow + "=15"
		}
		return answer
	}
	return ""
}

func canMeet(p param) bool {
	switch p.name {
	case serverNoTake, clientNoTake:
		return !p.given
	case serverWindow:
		return p.value == "15"
	case clientWindow:
		switch p.value {
		case "8", "9", "10", "11", "12", "13", "14", "15":
			return true
		}
		return !p.given
	}
	return false
}

func isToken(s string) bool {
	for i := range len(s) {
		if !isTokenByte(s[i]) {
			return false
		}
	}
	return s != ""
}

// isTokenByte is about the characters of RFC 9110's tokens.
func isTokenByte(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	return strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}

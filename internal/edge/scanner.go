package edge

import (
	"bytes"
	"math"
)

// What a connection is refused for.
const (
	faultBareLF   = "bare_lf"        // a line of the head, or of chunked framing, ends without CR
	faultFold     = "folded_header"  // a header line goes on in the next one
	faultBoth     = "two_lengths"    // Content-Length and Transfer-Encoding
	faultLength   = "content_length" // malformed, or two that differ
	faultEncoding = "transfer_encoding"
	faultVersion  = "http_version"
	faultChunk    = "chunk" // malformed framing of a chunked body
	faultPreface  = "h2_preface"
)

// faults are all of them.
func faults() []string {
	return []string{faultBareLF, faultFold, faultBoth, faultLength, faultEncoding, faultVersion, faultChunk, faultPreface}
}

// state is where in a request the next byte is.
type state uint8

const (
	atRequest state = iota // in the request line, or before it
	inHeader
	inBody // of announced length
	atChunk
	inChunk
	chunkCR // behind a chunk
	chunkLF
	inTrailer
	through // no longer HTTP/1: nothing is looked at
)

// lineStart is how much of a line that comes in pieces is kept: more than any field that matters has.
const lineStart = 64

// scanner follows the requests that a client sends over HTTP/1, byte by byte as they come, and finds what net/http takes
// but others may read differently: where two programs disagree on where a request ends, one client's bytes become
// another's request. It takes a part of what net/http takes, so that the two never disagree themselves.
//
// It keeps nothing but the beginning of a line that came in pieces.
type scanner struct {
	state state
	later bool // the first line of the connection is over
	h2    bool // HTTP/2 may be spoken from the first byte on
	only2 bool // and nothing else

	old       bool // HTTP/1.0
	hasLength bool
	chunked   bool
	wants     bool // another protocol
	upgrade   bool // the head that ended last wants one

	length int64 // Content-Length
	left   int64 // of the body or chunk

	size  int             // of the line so far, where it comes in pieces
	start [lineStart]byte // its beginning
	tail  [versionSize + 1]byte
}

const versionSize = len("HTTP/1.1")

// scan looks at what came next, and answers how much of it is good; all of it where there is no fault.
func (s *scanner) scan(b []byte) (good int, fault string) {
	for i := 0; i < len(b); {
		switch s.state {
		case through:
			return len(b), ""
		case inBody, inChunk:
			n := min(s.left, int64(len(b)-i))
			s.left -= n
			i += int(n)
			if s.left == 0 {
				s.state = [2]state{atRequest, chunkCR}[s.state/inChunk]
			}
		case chunkCR, chunkLF:
			if b[i] != "\r\n"[s.state-chunkCR] {
				return i, faultChunk
			}
			s.state = [2]state{chunkLF, atChunk}[s.state-chunkCR]
			i++
		case atRequest, inHeader, atChunk, inTrailer:
			if s.state == inHeader && s.size == 0 {
				i += skipFields(b[i:])
			}
			n := bytes.IndexByte(b[i:], '\n')
			if n < 0 {
				s.keep(b[i:])
				return len(b), ""
			}
			if fault := s.line(b[i : i+n]); fault != "" {
				return i, fault
			}
			i += n + 1
		}
	}
	return len(b), ""
}

// skipFields is how many bytes at the beginning of b are whole lines of a head that matter to nobody here. It is the way
// that nearly all of them go.
func skipFields(b []byte) int {
	i := 0
	for i < len(b) {
		switch b[i] {
		case '\r', '\n', ' ', '\t', 'c', 'C', 't', 'T', 'u', 'U':
			return i
		}
		n := bytes.IndexByte(b[i:], '\n')
		if n < 1 || b[i+n-1] != '\r' {
			return i
		}
		i += n + 1
	}
	return i
}

// keep takes a piece of a line.
func (s *scanner) keep(b []byte) {
	if s.size < lineStart {
		copy(s.start[s.size:], b)
	}
	s.size += len(b)
	if len(b) >= len(s.tail) {
		copy(s.tail[:], b[len(b)-len(s.tail):])
		return
	}
	copy(s.tail[:], s.tail[len(b):])
	copy(s.tail[len(s.tail)-len(b):], b)
}

// line takes the end of a line, without its LF.
func (s *scanner) line(b []byte) string {
	start, tail, size := b, b, len(b)
	if s.size > 0 {
		s.keep(b)
		start, tail, size = s.start[:min(s.size, lineStart)], s.tail[:], s.size
		s.size = 0
	}
	if size == 0 || tail[len(tail)-1] != '\r' {
		if s.state == atChunk {
			return faultChunk
		}
		return faultBareLF
	}
	if tail = tail[:len(tail)-1]; size == len(start) {
		start = start[:size-1]
	}
	switch s.state {
	case atRequest:
		return s.requestLine(start, tail, size-1)
	case atChunk:
		return s.chunkLine(start)
	case inTrailer:
		if size == 1 {
			s.state = atRequest
			return ""
		}
		return folded(start)
	default:
		if size == 1 {
			return s.endOfHead()
		}
		return s.header(start, size-1)
	}
}

func folded(line []byte) string {
	if line[0] == ' ' || line[0] == '\t' {
		return faultFold
	}
	return ""
}

// requestLine takes a line of that size by its start and its end. An empty one may stand before a request; net/http says when.
func (s *scanner) requestLine(start, tail []byte, size int) string {
	first := !s.later
	s.later = true
	if first && s.h2 && string(start) == "PRI * HTTP/2.0" {
		s.state = through
		return ""
	}
	if s.only2 {
		return faultPreface
	}
	if size == 0 {
		return ""
	}
	switch {
	case bytes.HasSuffix(tail, []byte("HTTP/1.1")):
		s.old = false
	case bytes.HasSuffix(tail, []byte("HTTP/1.0")):
		s.old = true
	default:
		return faultVersion
	}
	s.state, s.hasLength, s.chunked, s.wants, s.length = inHeader, false, false, false, 0
	return ""
}

// header takes a line of a head. Only what says where the request ends is looked at.
func (s *scanner) header(line []byte, size int) string {
	switch line[0] {
	case ' ', '\t':
		return faultFold
	case 'c', 'C':
		if v, ok := value(line, "content-length"); ok {
			return s.contentLength(v, size)
		}
	case 't', 'T':
		if v, ok := value(line, "transfer-encoding"); ok {
			if s.chunked || size > lineStart || !bytes.EqualFold(v, []byte("chunked")) {
				return faultEncoding
			}
			s.chunked = true
		}
	case 'u', 'U':
		if _, ok := value(line, "upgrade"); ok {
			s.wants = true
		}
	}
	return ""
}

// value is what stands behind the name and its colon, without spaces around it.
func value(line []byte, name string) ([]byte, bool) {
	if len(line) <= len(name) || line[len(name)] != ':' || !bytes.EqualFold(line[:len(name)], []byte(name)) {
		return nil, false
	}
	return bytes.Trim(line[len(name)+1:], " \t"), true
}

func (s *scanner) contentLength(v []byte, size int) string {
	if len(v) == 0 || len(v) > 18 || size > lineStart {
		return faultLength
	}
	var n int64
	for _, c := range v {
		if c < '0' || c > '9' {
			return faultLength
		}
		n = 10*n + int64(c-'0')
	}
	if s.hasLength && n != s.length {
		return faultLength
	}
	s.hasLength, s.length = true, n
	return ""
}

func (s *scanner) endOfHead() string {
	s.upgrade = s.wants
	switch {
	case s.chunked && s.hasLength:
		return faultBoth
	case s.chunked && s.old:
		return faultEncoding
	case s.chunked:
		s.state = atChunk
	case s.length > 0:
		s.state, s.left = inBody, s.length
	default:
		s.state = atRequest
	}
	return ""
}

// chunkLine takes the size of a chunk. Blanks behind it are harmless; what stands behind a semicolon is nobody's.
func (s *scanner) chunkLine(line []byte) string {
	var n uint64
	i := 0
	for ; i < len(line); i++ {
		d, ok := hexDigit(line[i])
		if !ok {
			break
		}
		if n = n<<4 | d; i == 16 || n > math.MaxInt64 {
			return faultChunk
		}
	}
	rest := line[i:]
	if i == 0 || len(rest) > 0 && rest[0] != ';' && len(bytes.Trim(rest, " \t")) > 0 {
		return faultChunk
	}
	s.state, s.left = inChunk, int64(n)
	if n == 0 {
		s.state = inTrailer
	}
	return ""
}

func hexDigit(c byte) (uint64, bool) {
	switch {
	case '0' <= c && c <= '9':
		return uint64(c - '0'), true
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return uint64(c|0x20-'a') + 10, true
	}
	return 0, false
}

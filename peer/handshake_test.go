package peer

import (
	"bytes"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"testing/iotest"
)

// shake lets both sides speak to each other. A side that fails hangs up.
func shake(server, client [][]byte) (serverErr, clientErr error) {
	a, b := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		serverErr = welcome(a, server)
		_ = a.Close()
	}()
	clientErr = greet(b, client)
	_ = b.Close()
	<-done
	return serverErr, clientErr
}

func TestHandshake(t *testing.T) {
	for name, c := range map[string]struct {
		server, client [][]byte
		serverErr      error // nil: it succeeds
		clientErr      error
	}{
		"the same secret":                     {secrets("a"), secrets("a"), nil, nil},
		"the server heard of the new first":   {secrets("b", "a"), secrets("a"), nil, nil},
		"the client heard of the new first":   {secrets("a"), secrets("b", "a"), nil, nil},
		"both know both":                      {secrets("b", "a"), secrets("b", "a"), nil, nil},
		"the previous of one is nobody's":     {secrets("b", "a"), secrets("c", "b"), nil, nil},
		"another secret":                      {secrets("a"), secrets("b"), errWrongMAC, errHungUp},
		"none in common":                      {secrets("b", "a"), secrets("d", "c"), errWrongMAC, errHungUp},
		"a third one does not count":          {secrets("c", "b", "a"), secrets("a"), errWrongMAC, errHungUp},
		"the server has none":                 {nil, secrets("a"), errNoSecret, errHungUp},
		"the client has none":                 {secrets("a"), nil, io.ErrClosedPipe, errNoSecret},
		"the empty secret is none":            {[][]byte{{}}, [][]byte{{}}, errNoSecret, errNoSecret},
		"a short secret is none":              {[][]byte{secret("a")[:MinSecret-1]}, secrets("a"), errNoSecret, errHungUp},
		"an empty one does not hide the next": {[][]byte{{}, secret("a")}, secrets("a"), nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			serverErr, clientErr := shake(c.server, c.client)
			if !errors.Is(serverErr, c.serverErr) || (serverErr == nil) != (c.serverErr == nil) {
				t.Errorf("server: %v, want %v", serverErr, c.serverErr)
			}
			if !errors.Is(clientErr, c.clientErr) || (clientErr == nil) != (c.clientErr == nil) {
				t.Errorf("client: %v, want %v", clientErr, c.clientErr)
			}
		})
	}
}

// script plays one side of a handshake from memory.
type script struct {
	io.Reader
	bytes.Buffer // what was written
}

func (s *script) Read(b []byte) (int, error) { return s.Reader.Read(b) }

// answer is what an honest client says to a server that begins like this.
func answer(t *testing.T, hello []byte, secrets [][]byte) []byte {
	t.Helper()
	s := &script{Reader: bytes.NewReader(hello)}
	if err := greet(s, secrets); !errors.Is(err, errHungUp) {
		t.Fatalf("the client: %v", err)
	}
	return s.Bytes()
}

// later is a reader that is made when it is first read, so that it can depend on what was written before.
type later struct {
	make func() io.Reader
	r    io.Reader
}

func (l *later) Read(b []byte) (int, error) {
	if l.r == nil {
		l.r = l.make()
	}
	return l.r.Read(b)
}

// An answer is good once, in one piece or byte by byte, and what follows it is left for HTTP.
func TestWelcomeReadsNoFurther(t *testing.T) {
	for name, chop := range map[string]func(io.Reader) io.Reader{
		"at once":      func(r io.Reader) io.Reader { return r },
		"byte by byte": iotest.OneByteReader,
		"with the end": iotest.DataErrReader,
	} {
		t.Run(name, func(t *testing.T) {
			s := &script{}
			s.Reader = &later{make: func() io.Reader {
				return chop(bytes.NewReader(append(answer(t, s.Bytes(), secrets("a")), "PRI * HTTP/2.0"...)))
			}}
			if err := welcome(s, secrets("a")); err != nil {
				t.Fatal(err)
			}
			if rest, err := io.ReadAll(s); err != nil || string(rest) != "PRI * HTTP/2.0" {
				t.Errorf("left %q, %v", rest, err)
			}
		})
	}
}

// A stranger who makes the client speak learns nothing that the client would take as proof.
func TestReflection(t *testing.T) {
	for name, proof := range map[string]func(answer []byte) []byte{
		"the client's own MAC":   func(a []byte) []byte { return a[len(greeting)+nonceSize:][:macSize] },
		"the client's other MAC": func(a []byte) []byte { return a[len(greeting)+nonceSize+macSize:] },
		"the client's nonce":     func(a []byte) []byte { return a[len(greeting):][:nonceSize] },
		"zeros":                  func([]byte) []byte { return make([]byte, macSize) },
	} {
		t.Run(name, func(t *testing.T) {
			s := &script{}
			s.Reader = io.MultiReader(bytes.NewReader(hello()), &later{make: func() io.Reader { return bytes.NewReader(proof(s.Bytes())) }})
			if err := greet(s, secrets("b", "a")); !errors.Is(err, errWrongMAC) {
				t.Errorf("the client took it: %v", err)
			}
		})
	}
}

// A server's MAC does not make a client: an accomplice who got one for the same nonces can't enter with it.
func TestServersProofIsNoClients(t *testing.T) {
	s := &script{}
	s.Reader = &later{make: func() io.Reader {
		var sn, cn nonce
		copy(sn[:], s.Bytes()[len(greeting):])
		m := sum(secret("a"), labelServer, sn, cn)
		return bytes.NewReader(slices.Concat([]byte(greeting), cn[:], m[:], m[:]))
	}}
	if err := welcome(s, secrets("a")); !errors.Is(err, errWrongMAC) {
		t.Errorf("the server took it: %v", err)
	}
}

func hello() []byte { return append([]byte(greeting), make([]byte, nonceSize)...) }

func TestGreetRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		said string
		want error
	}{
		"nothing":             {"", errHungUp},
		"an HTTP server":      {"HTTP/1.1 400 Bad Request\r\n\r\n", errNotPeer},
		"another version":     {"kateway-peer/2\n", errNotPeer},
		"half a greeting":     {greeting[:5], errHungUp},
		"half a nonce":        {greeting + "123", io.ErrUnexpectedEOF},
		"a greeting, no more": {greeting, io.EOF},
		"half a proof":        {string(hello()) + "123", io.ErrUnexpectedEOF},
		"a proof of another":  {string(hello()) + string(secret("b"))[:macSize-15] + "123456789012345", errWrongMAC},
	} {
		t.Run(name, func(t *testing.T) {
			err := greet(&script{Reader: bytes.NewReader([]byte(c.said))}, secrets("a"))
			if !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
}

func TestGreetTellsWhatItHeard(t *testing.T) {
	s := &script{Reader: iotest.OneByteReader(bytes.NewReader([]byte("HTTP/1.1 400")))}
	if err := greet(s, secrets("a")); err == nil || err.Error() != `it said "H": `+errNotPeer.Error() {
		t.Errorf("%v", err)
	}
}

func FuzzWelcome(f *testing.F) {
	f.Add([]byte(nil))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
	f.Add(append([]byte(greeting), make([]byte, nonceSize+maxSecrets*macSize)...))
	f.Fuzz(func(t *testing.T, said []byte) {
		s := &script{Reader: bytes.NewReader(said)}
		if err := welcome(s, secrets("b", "a")); err == nil {
			t.Fatal("a stranger got in")
		}
		if n := s.Len(); n != len(greeting)+nonceSize {
			t.Errorf("it was told %d bytes", n)
		}
	})
}

func FuzzGreet(f *testing.F) {
	f.Add([]byte(nil))
	f.Add([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
	f.Add(append(hello(), make([]byte, macSize)...))
	f.Fuzz(func(t *testing.T, said []byte) {
		if err := greet(&script{Reader: bytes.NewReader(said)}, secrets("b", "a")); err == nil {
			t.Fatal("a stranger was taken for a gateway")
		}
	})
}

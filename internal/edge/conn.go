package edge

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// poison is no HTTP wherever it stands: net/http answers 400 to it and closes the connection, after all that came before it
// was answered. An answer of our own could fall into one that is being written.
const poison = "\x00\r\n\r\n"

// conn is a connection of a client. A fault in what it sends ends the connection in order, see poison.
type conn struct {
	net.Conn            // clear text: what the client sends is looked at here
	raw      net.Conn   // as it was accepted
	tls      *tlsServer // nil in clear text

	scanner scanner
	refused map[string]prometheus.Counter // by the fault
	broken  []byte                        // what is left of the poison; nil while nothing is wrong

	upgrade atomic.Bool // the last request asks for another protocol
	through atomic.Bool // and has got it
	close   sync.Once
	done    func()
}

// tlsServer is the encryption of a connection.
type tlsServer struct {
	*tls.Conn
	state tls.ConnectionState
	shook atomic.Bool // state is set, and stays
}

// Read gives what the client sends, up to the first fault.
func (c *conn) Read(b []byte) (int, error) {
	if c.broken != nil {
		return c.poisoned(b)
	}
	n, err := c.Conn.Read(b)
	if c.through.Load() {
		return n, err
	}
	if c.tls != nil && !c.tls.shook.Load() {
		if err != nil {
			return n, c.handshakeFailed(err)
		}
		c.shake()
	}
	good, fault := c.scanner.scan(b[:n])
	if fault != "" {
		c.refused[fault].Inc()
		c.broken = []byte(poison)
		if good == 0 && n > 0 {
			return c.poisoned(b)
		}
		return good, nil
	}
	switch {
	case c.scanner.state == through:
		c.through.Store(true)
	case c.scanner.upgrade:
		c.upgrade.Store(true)
		c.scanner.upgrade = false
	}
	return n, err
}

func (c *conn) poisoned(b []byte) (int, error) {
	if len(c.broken) == 0 {
		return 0, io.EOF
	}
	n := copy(b, c.broken)
	c.broken = c.broken[n:]
	return n, nil
}

// Write watches for the answer that ends HTTP on this connection.
func (c *conn) Write(b []byte) (int, error) {
	if c.upgrade.Load() && !bytes.HasPrefix(b, []byte("HTTP/1.1 100")) {
		c.upgrade.Store(false)
		if bytes.HasPrefix(b, []byte("HTTP/1.1 101")) {
			c.through.Store(true)
		}
	}
	return c.Conn.Write(b)
}

// Close frees the connection's place.
func (c *conn) Close() error {
	err := c.Conn.Close()
	c.close.Do(c.done)
	return err
}

// CloseWrite says that nothing more is sent, so that a client that still sends gets the answer.
func (c *conn) CloseWrite() error {
	w, ok := c.raw.(interface{ CloseWrite() error })
	if c.tls != nil {
		w, ok = c.tls.Conn, true
	}
	if !ok {
		return errors.ErrUnsupported
	}
	return w.CloseWrite()
}

// shake takes what the handshake has found out.
func (c *conn) shake() {
	c.tls.state = c.tls.ConnectionState()
	c.tls.shook.Store(true)
	c.scanner.only2 = c.tls.state.NegotiatedProtocol == "h2"
	c.scanner.h2 = c.scanner.only2
}

// handshakeFailed tells a client that speaks clear text what is wrong, as net/http does.
func (c *conn) handshakeFailed(err error) error {
	var head tls.RecordHeaderError
	if errors.As(err, &head) && head.Conn != nil && looksLikeHTTP(head.RecordHeader) {
		_, _ = io.WriteString(head.Conn, "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")
	}
	return err
}

func looksLikeHTTP(b [5]byte) bool {
	switch string(b[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "OPTIO", "DELET", "PATCH":
		return true
	}
	return false
}

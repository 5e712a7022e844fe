package storm

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"testing"
)

var errCut = errors.New("cut by the test")

// Cutter makes connections that reset themselves when so many bytes have come. What is read is then gone: for the gateway that
// is a client that vanished in the midst of an answer.
type Cutter struct {
	Before func() // is told before the reset

	mu    sync.Mutex
	after int // bytes
	Cuts  int // so far; to be read when it is done
}

// Set says when connections from now on are cut; negative: never.
func (c *Cutter) Set(after int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.after = after
}

// Dial makes one.
func (c *Cutter) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return &cutConn{TCPConn: conn.(*net.TCPConn), by: c, left: c.after}, nil
}

// Client has a connection of its own for each request.
func (c *Cutter) Client(t *testing.T) *http.Client {
	tr := &http.Transport{DisableCompression: true, DisableKeepAlives: true, DialContext: c.Dial}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

type cutConn struct {
	*net.TCPConn
	by   *Cutter
	left int
}

func (c *cutConn) Read(b []byte) (int, error) {
	switch {
	case c.left < 0:
		return c.TCPConn.Read(b)
	case c.left == 0:
		return 0, c.cut()
	}
	n, err := c.TCPConn.Read(b[:min(len(b), c.left)])
	if c.left -= n; c.left == 0 && err == nil {
		err = c.cut()
	}
	return n, err
}

func (c *cutConn) cut() error {
	c.by.mu.Lock()
	c.by.Cuts++
	c.by.mu.Unlock()
	c.by.Before()
	_ = c.SetLinger(0)
	_ = c.Close()
	return errCut
}

//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"
)

// Opcodes of RFC 6455.
const (
	wsText = 1
	wsPing = 9
	wsPong = 10
)

// mask is of all frames of all clients: nobody between us and the server can be fooled by what they say.
var mask = [4]byte{0x37, 0xfa, 0x21, 0x3d} //nolint:gochecknoglobals // a constant

// socket is the client's end of a WebSocket, of which it knows what is measured with: whole frames.
type socket struct {
	client

	out []byte // frames not yet sent
}

// dialWS opens a WebSocket. buffer is the largest frame that it reads, in bytes.
func dialWS(ctx context.Context, addr, path string, buffer int) (*socket, error) {
	c, err := dialBuffer(ctx, addr, buffer)
	if err != nil {
		return nil, err
	}
	h, err := c.send(fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", path))
	if err == nil && h.status != 101 {
		err = fmt.Errorf("%s answered %d to a WebSocket", path, h.status)
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return &socket{client: *c}, nil
}

// frame reads the next frame. What is queued is sent before it waits. The payload is valid until the next call. A ping is
// answered and passed over.
func (s *socket) frame() (op byte, payload []byte, err error) {
	for {
		if s.r.Buffered() == 0 {
			if err := s.flush(); err != nil {
				return 0, nil, err
			}
		}
		if op, payload, err = s.whole(); err != nil || op != wsPing {
			return op, payload, err
		}
		s.queue(wsPong, payload)
	}
}

func (s *socket) whole() (op byte, payload []byte, err error) {
	head, err := s.r.Peek(2)
	if err != nil {
		return 0, nil, err
	}
	op, skip, n := head[0]&15, 2, int(head[1])
	switch n {
	case 126:
		if head, err = s.r.Peek(4); err == nil {
			skip, n = 4, int(binary.BigEndian.Uint16(head[2:]))
		}
	case 127:
		err = errors.New("a frame of more than 64 KiB")
	}
	if err != nil {
		return 0, nil, err
	}
	whole, err := s.r.Peek(skip + n)
	if err != nil {
		return 0, nil, err
	}
	_, err = s.r.Discard(skip + n)
	return op, whole[skip:], err
}

// queue makes a frame of less than 64 KiB ready to be sent.
func (s *socket) queue(op byte, payload ...[]byte) {
	n := 0
	for _, p := range payload {
		n += len(p)
	}
	s.out = append(s.out, 0x80|op)
	if n < 126 {
		s.out = append(s.out, 0x80|byte(n))
	} else {
		s.out = binary.BigEndian.AppendUint16(append(s.out, 0x80|126), uint16(n))
	}
	s.out = append(s.out, mask[:]...)
	at := len(s.out)
	for _, p := range payload {
		s.out = append(s.out, p...)
	}
	for i := range s.out[at:] {
		s.out[at+i] ^= mask[i&3]
	}
}

func (s *socket) flush() error {
	if len(s.out) == 0 {
		return nil
	}
	_, err := s.conn.Write(s.out)
	s.out = s.out[:0]
	return err
}

// acking reads so many messages on so many WebSockets together and acks each, and returns when the server has read all acks. It answers
// the first message and its ack, as they looked.
func acking(ctx context.Context, addr, path string, clients, total int) (message, ack []byte, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a := &acks{total: int64(total), done: make(chan struct{})}
	open := make([]*socket, 0, clients)
	defer func() {
		for _, s := range open {
			s.close()
		}
	}()
	for range clients {
		s, err := dialWS(ctx, addr, path, 64<<10)
		if err != nil {
			return nil, nil, err
		}
		open = append(open, s)
		if err := s.conn.SetDeadline(time.Now().Add(ioWait)); err != nil {
			return nil, nil, err
		}
	}
	go func() { // when all is there, who still waits is woken
		select {
		case <-a.done:
		case <-ctx.Done():
		}
		for _, s := range open {
			_ = s.conn.SetReadDeadline(time.Unix(1, 0))
		}
	}()
	err = together(clients, func(i int) error { return a.client(open[i]) })
	return a.message, a.ack, err
}

// acks is what the clients of one acking share.
type acks struct {
	total int64
	seen  atomic.Int64
	done  chan struct{} // all were seen

	message, ack []byte // the first; whole once done is closed
}

// client reads and acks until all was seen by anybody, and then asks the server whether it has read everything.
func (a *acks) client(s *socket) error {
	for {
		op, payload, err := s.frame()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			return err
		}
		if op != wsText {
			return fmt.Errorf("a frame of kind %d: %.200q", op, payload)
		}
		if err := a.one(s, payload); err != nil {
			return err
		}
	}
	select {
	case <-a.done:
		return a.settled(s)
	default:
		return fmt.Errorf("%d messages of %d have come within %v", a.seen.Load(), a.total, ioWait)
	}
}

// one acks a message.
func (a *acks) one(s *socket, payload []byte) error {
	_, rest, _ := bytes.Cut(payload, []byte(`"receipt":"`))
	receipt, _, ok := bytes.Cut(rest, []byte(`"`))
	if !ok {
		return fmt.Errorf("no message with a receipt: %.200q", payload)
	}
	s.queue(wsText, []byte(`{"op":"ack","receipt":"`), receipt, []byte(`"}`))
	n := a.seen.Add(1)
	if n == 1 {
		a.message, a.ack = bytes.Clone(payload), fmt.Appendf(nil, `{"op":"ack","receipt":"%s"}`, receipt)
	}
	if n == a.total {
		close(a.done)
	}
	return nil
}

// settled waits until the server has read what was sent: it answers a ping in its turn.
func (a *acks) settled(s *socket) error {
	if err := s.conn.SetDeadline(time.Now().Add(ioWait)); err != nil {
		return err
	}
	s.queue(wsPing, []byte("all acked"))
	for {
		op, payload, err := s.frame()
		switch {
		case err != nil:
			return err
		case op == wsPong:
			return nil
		default:
			return fmt.Errorf("after everything was delivered: %.200q", payload)
		}
	}
}

// openWS opens idle WebSockets, which answer pings.
func openWS(ctx context.Context, addr, path string, n int) (closeAll func(), err error) {
	open := make([]*socket, 0, n)
	closeAll = func() {
		for _, s := range open {
			s.close()
		}
	}
	for range n {
		s, err := dialWS(ctx, addr, path, 1<<10)
		if err == nil {
			open = append(open, s)
			err = s.conn.SetDeadline(time.Time{})
		}
		if err != nil {
			closeAll()
			return nil, err
		}
		go func() {
			for err := error(nil); err == nil; {
				_, _, err = s.frame() // until it is closed
			}
		}()
	}
	return closeAll, nil
}

//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const ioWait = time.Minute // for one answer; longer means that something is broken

// client is one keep-alive connection. It does no more than it must, since it takes its CPU from what is measured.
type client struct {
	conn net.Conn
	r    *bufio.Reader
}

func dial(ctx context.Context, addr string) (*client, error) {
	return dialBuffer(ctx, addr, 256<<10)
}

// dialBuffer is dial with so many bytes to read into.
func dialBuffer(ctx context.Context, addr string, buffer int) (*client, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &client{conn: conn, r: bufio.NewReaderSize(conn, buffer)}, nil
}

func (c *client) close() { _ = c.conn.Close() }

// head is what the client looks at of an answer's head.
type head struct {
	status  int
	length  int // -1: chunked
	closing bool
}

// send writes the request and reads the answer's head.
func (c *client) send(request []byte) (head, error) {
	if err := c.conn.SetDeadline(time.Now().Add(ioWait)); err != nil {
		return head{}, err
	}
	if _, err := c.conn.Write(request); err != nil {
		return head{}, err
	}
	return c.head()
}

func (c *client) head() (h head, err error) {
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		return h, err
	}
	if len(line) < 12 {
		return h, fmt.Errorf("status line %q", line)
	}
	if h.status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return h, err
	}
	for {
		if line, err = c.r.ReadSlice('\n'); err != nil {
			return h, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			return h, nil
		}
		name, value, _ := bytes.Cut(line, []byte(": "))
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			if h.length, err = strconv.Atoi(string(value)); err != nil {
				return h, err
			}
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			h.length = -1
		case bytes.EqualFold(name, []byte("Connection")):
			h.closing = bytes.EqualFold(value, []byte("close"))
		}
	}
}

// drop sends the request and reads the answer to its end.
func (c *client) drop(request []byte) (head, error) {
	h, err := c.send(request)
	if err != nil {
		return h, err
	}
	if h.length >= 0 {
		_, err = c.r.Discard(h.length)
		return h, err
	}
	return h, c.chunks(func(n int) error {
		_, err := c.r.Discard(n)
		return err
	})
}

// chunks calls f for each chunk with its size; f reads that much.
func (c *client) chunks(f func(size int) error) error {
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return err
		}
		n, err := strconv.ParseInt(string(bytes.TrimRight(line, "\r\n")), 16, 32)
		if err != nil {
			return err
		}
		if n > 0 {
			if err := f(int(n)); err != nil {
				return err
			}
		}
		if _, err := c.r.Discard(2); err != nil || n == 0 {
			return err
		}
	}
}

// sample is one round's measurement.
type sample struct {
	messages  int
	took, cpu time.Duration
}

func (s sample) perMessage() float64 { return float64(s.cpu) / float64(s.messages) }
func (s sample) rate() float64       { return float64(s.messages) / s.took.Seconds() }

// measured is f with the CPU that the process used meanwhile.
func measured(p *proc, f func() (messages int, err error)) (sample, error) {
	before, err := p.cpu()
	if err != nil {
		return sample{}, err
	}
	began := time.Now()
	n, err := f()
	if err != nil {
		return sample{}, err
	}
	took := time.Since(began)
	after, err := p.cpu()
	if err == nil && n == 0 {
		err = errors.New("no message got through")
	}
	return sample{messages: n, took: took, cpu: after - before}, err
}

// post is a whole publish request.
func post(path string, body []byte) []byte {
	return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
}

// publishing sends the request on so many connections for a while; each answer must be 201.
func publishing(ctx context.Context, addr string, request []byte, conns int, d time.Duration) (requests int, err error) {
	var total atomic.Int64
	end := time.Now().Add(d)
	err = together(conns, func(int) error {
		c, err := dial(ctx, addr)
		if err != nil {
			return err
		}
		defer c.close()
		for time.Now().Before(end) && ctx.Err() == nil {
			h, err := c.drop(request)
			if err != nil {
				return err
			}
			if h.status != 201 {
				return fmt.Errorf("publish answered %d", h.status)
			}
			total.Add(1)
		}
		return ctx.Err()
	})
	return int(total.Load()), err
}

// together runs f(0) to f(n-1) at the same time.
func together(n int, f func(i int) error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = f(i) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err // one says enough
		}
	}
	return nil
}

// streaming reads a whole stream and answers the sizes of its chunks.
func streaming(ctx context.Context, addr, path, accept string) (sizes []int, err error) {
	c, err := dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	defer c.close()
	h, err := c.send(fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: localhost\r\nAccept: %s\r\n\r\n", path, accept))
	if err != nil {
		return nil, err
	}
	if h.status != 200 || h.length >= 0 {
		return nil, fmt.Errorf("stream answered %d", h.status)
	}
	err = c.chunks(func(n int) error {
		sizes = append(sizes, n)
		_, err := c.r.Discard(n)
		return err
	})
	return sizes, err
}

// polling reads so many messages by polls.
func polling(ctx context.Context, addr, path string, messages int) error {
	c, err := dial(ctx, addr)
	if err != nil {
		return err
	}
	defer c.close()
	request := fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", path)
	buf, n := make([]byte, 64<<10), 0
	read := func(size int) error {
		for size > 0 {
			part := buf[:min(size, len(buf))]
			if _, err := io.ReadFull(c.r, part); err != nil {
				return err
			}
			n += bytes.Count(part, []byte{'\n'})
			size -= len(part)
		}
		return nil
	}
	for n < messages {
		h, err := c.send(request)
		switch {
		case err != nil:
			return err
		case h.status != 200:
			return fmt.Errorf("poll after %d messages answered %d", n, h.status)
		case h.length >= 0:
			err = read(h.length)
		default:
			err = c.chunks(read)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// letters is a value of n bytes.
func letters(n int) []byte {
	return []byte(strings.Repeat("abcdefghijklmnopqrstuvwxyz", n/26+1)[:n])
}

// lines is a batch of n values of 100 bytes.
func lines(n int) []byte {
	return bytes.Repeat(append(letters(100), '\n'), n)
}

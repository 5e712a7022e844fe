//go:build linux

package main

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"

	"github.com/gorilla/websocket"
)

func (f *floors) setFrame(w http.ResponseWriter, r *http.Request) {
	var err error
	if f.frame, err = io.ReadAll(r.Body); err != nil {
		http.Error(w, err.Error(), 400)
	}
}

// socket is the least that a WebSocket can be on which each frame of the client's is answered by one: prefetch frames are
// sent at once, and then one for each that comes, messages in all. What is written while there is more to read is
// written together.
func (f *floors) socket(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	prefetch, _ := strconv.Atoi(q.Get("prefetch"))
	messages, _ := strconv.Atoi(q.Get("messages"))
	conn, err := new(websocket.Upgrader).Upgrade(corker{w}, r, nil)
	if err != nil {
		return
	}
	defer conn.Close()
	for range min(prefetch, messages) {
		if err := conn.WriteMessage(websocket.TextMessage, f.frame); err != nil {
			return
		}
	}
	for sent := min(prefetch, messages); ; {
		if _, _, err := conn.ReadMessage(); err != nil {
			return
		}
		if sent < messages {
			if err := conn.WriteMessage(websocket.TextMessage, f.frame); err != nil {
				return
			}
			sent++
		}
	}
}

// corker has the connection that is taken from the server corked.
type corker struct{ http.ResponseWriter }

func (c corker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	h, ok := c.ResponseWriter.(http.Hijacker)
	if !ok {
		return nil, nil, errors.New("no connection to take")
	}
	conn, rw, err := h.Hijack()
	return &corked{Conn: conn}, rw, err
}

// corked keeps what is written until it is read from, or 64 KiB are there.
type corked struct {
	net.Conn

	out []byte
}

func (c *corked) Write(p []byte) (int, error) {
	c.out = append(c.out, p...)
	if len(c.out) < 64<<10 {
		return len(p), nil
	}
	return len(p), c.flush()
}

func (c *corked) Read(p []byte) (int, error) {
	if err := c.flush(); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

func (c *corked) flush() error {
	if len(c.out) == 0 {
		return nil
	}
	_, err := c.Conn.Write(c.out)
	c.out = c.out[:0]
	return err
}

// fan is the least that a broadcast over net/http can be.
type fan struct {
	mu        sync.Mutex
	listeners map[chan []byte]struct{}
}

// listen writes each chunk that is told.
func (f *fan) listen(w http.ResponseWriter, r *http.Request) {
	chunks := make(chan []byte, 1)
	f.mu.Lock()
	if f.listeners == nil {
		f.listeners = map[chan []byte]struct{}{}
	}
	f.listeners[chunks] = struct{}{}
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.listeners, chunks)
		f.mu.Unlock()
	}()
	rc := http.NewResponseController(w)
	err := rc.Flush()
	for err == nil {
		select {
		case chunk := <-chunks:
			if _, err = w.Write(chunk); err == nil {
				err = rc.Flush()
			}
		case <-r.Context().Done():
			return
		}
	}
}

// tell gives everybody the body.
func (f *fan) tell(w http.ResponseWriter, r *http.Request) {
	chunk, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), 400)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for chunks := range f.listeners {
		select {
		case chunks <- chunk:
		case <-r.Context().Done(): // one that goes away takes none
			return
		}
	}
	w.WriteHeader(201)
}

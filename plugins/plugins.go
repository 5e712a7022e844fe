// Package plugins is the chain that every request of a data role passes before its work is done: who may, how much, how
// fast. A plugin is an independent piece of it; the order is the configuration's, and the chain is made once at start.
package plugins

import (
	"context"
	"net/http"
	"time"
)

// Op is what a request wants.
type Op uint8

// The ops.
const (
	Publish   Op = iota
	Subscribe    // poll or stream
	Settle       // acks, offsets
)

// Call is a request as plugins see it. App is the caller, filled in by who knows it: authentication, or, without one, the
// header Appid. Owner is the topic's app; "" on publish means the caller's own.
type Call struct {
	Op         Op
	App, Owner string
	KeyID      string // which key showed who calls; "" where none did
	Topic, Ver string
	Group      string
	Remote     string // address and port
	Header     http.Header
	Size       int64     // of the body; -1 where unknown
	Expires    time.Time // when what it showed is no longer good; zero: never
	Result     error     // what became of it, once next has returned

	request *http.Request               // see Gate
	work    func(r *http.Request) error // nil once it has begun
}

// Handler does what is asked, or passes it on.
type Handler func(ctx context.Context, c *Call) error

// Plugin is a link of the chain. Wrap is called once, before the first request; what it returns may be called concurrently.
type Plugin interface {
	Wrap(next Handler) Handler
}

// Chain makes one handler of the plugins, the first outermost, and what they guard.
func Chain(list []Plugin, last Handler) Handler {
	for i := len(list) - 1; i >= 0; i-- {
		last = list[i].Wrap(last)
	}
	return last
}

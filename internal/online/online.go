// Package online knows who uses this gateway right now: one entry per connection, topic and way of use. Counting costs a
// publish two atomic additions once its connection is known.
package online

import "time"

// The kinds of use.
const (
	Pub    = "pub"
	Poll   = "poll"
	Stream = "stream"
	SSE    = "sse"
	WS     = "ws"
)

// Client is one use of the gateway by one connection.
type Client struct {
	Gateway  string    `json:"gateway"`
	Kind     string    `json:"kind"`
	App      string    `json:"app"`   // who calls
	Owner    string    `json:"owner"` // whose topic it is
	Topic    string    `json:"topic"`
	Ver      string    `json:"ver"`
	Group    string    `json:"group"`
	Remote   string    `json:"remote"` // address and port
	Since    time.Time `json:"since"`
	Messages int64     `json:"messages"` // since then
	Bytes    int64     `json:"bytes"`
}

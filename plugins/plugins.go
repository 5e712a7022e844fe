// Package plugins is the chain that every request of a data role passes before its work is done: who may, how much, how
// fast, and what the messages may be. A plugin is an independent piece of it; the order is the configuration's, and the
// chain is made once at start.
package plugins

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/netip"
	"time"

	"github.com/kateway/kateway/store"
)

// Op is what a request wants.
type Op uint8

// The ops.
const (
	Publish   Op = iota
	Subscribe    // poll or stream, with or without a group
	Settle       // acks, offsets
)

// Call is a request as plugins see it. App is the caller, filled in by who knows it: authentication, or, without one, the
// header Appid. Owner is the topic's app; "" on publish means the caller's own. A request that names no topic is faulty, and
// is told so when it has passed; nothing is done.
type Call struct {
	Op         Op
	Lasting    bool // a stream or a WebSocket: the call ends when its client leaves
	Waits      bool // a poll that may wait for minutes
	MayLeave   bool // the work can leave its request behind, see Leave
	App, Owner string
	KeyID      string // which key showed who calls; "" where none did
	Topic, Ver string
	Group      string // "" where there is none
	Remote     string // address and port of the client
	Header     http.Header
	RawQuery   string
	TLS        *tls.ConnectionState // nil in clear text
	Size       int64                // of the body; -1 where unknown
	Expires    time.Time            // when what it showed is no longer good; zero: never
	Result     error                // what became of it, once next has returned
	Answer     http.Header          // of the answer: what is set here before next, or in Admit, goes out with it
	Held       any                  // quota's: what it has taken for the call and gives back

	// Route says whether a message of this publish may be sent to another topic of the app, where who calls may not publish to
	// each of them; nil: he may. Kind Denied.
	Route func(topic, ver string) error

	// What is known to Admitters only: of a publish, how many messages it has, and the bytes of their values and keys.
	Messages int
	Bytes    int64

	Load Load // what the plugin guard has for it; nobody else's business

	request *http.Request               // see Gate
	work    func(r *http.Request) error // nil once it has begun
	life    *life                       // nil: the chain is around the whole call
	box     *box                        // whose plugin has come back from next; nil where failures are not contained
}

// Load is what a call takes of what is bounded.
type Load struct {
	Bytes int64 // of memory for the body
	Turn  bool  // among those that are in work
}

// Handler does what is asked, or passes it on.
type Handler func(ctx context.Context, c *Call) error

// Plugin is a link of the chain. Wrap is called once, before the first request; what it returns may be called concurrently.
type Plugin interface {
	Wrap(next Handler) Handler
}

// Watcher is a Plugin that sees from where requests come, of every role and also those that no route serves, and what
// becomes of them. Loopback addresses and those of trusted proxies it does not see, nor requests about health. Its methods
// may be called concurrently and never wait.
type Watcher interface {
	Plugin
	// Arrives answers how long the address is to stay away; 0: its request is welcome. IPv6 addresses stand for their /64.
	Arrives(addr netip.Addr) time.Duration
	// Ended says what became of a request that was welcome; nil: it was served.
	Ended(addr netip.Addr, err error)
}

// Admitter is a Plugin that decides on messages of a publish by their number and size. On a WebSocket it is asked again and
// again, for as many messages as have come meanwhile.
type Admitter interface {
	Plugin
	// Admit is asked after the body is read and before anything is stored: all of it is admitted, or nothing. It may be
	// called concurrently, and may wait as long as ctx allows.
	Admit(ctx context.Context, c *Call) error
}

// Inspector is a Plugin that looks at each message.
type Inspector interface {
	Plugin
	// Inspection is what looks at the messages of a call, nil where nothing does: it is asked once per request, after the
	// chain has let it through, so that who has nothing to do costs nothing. It never waits.
	Inspection(c *Call) Inspection
}

// Inspection looks at a message, may change it, may refuse it, may drop it, and may send it to another topic. The message is
// the caller's own, but what its slices hold is shared: a change puts another slice in place. On the way in a message that is
// refused refuses the whole publish, on a WebSocket itself alone; on the way out it is buried, with the error's text as cause,
// or, without a group, left out. It may be called concurrently. An error's [errs.Faults] reach the client.
type Inspection func(ctx context.Context, m *Message) error

// Message is a message that is inspected, and what is to become of it.
type Message struct {
	store.Message

	// Where it goes on the way in, and comes from on the way out. On the way in an inspection may change it: the message is
	// then stored in that topic of the same app, under the same rights, and its publisher is told. What is behind that
	// inspection in the chain sees the new topic. On the way out a change means nothing.
	Topic, Ver string
	// Dropped ends its way: nothing behind this inspection sees it. On the way in it is stored nowhere, and its publisher is
	// told; on the way out it counts as done, as one that does not match the reader's filter.
	Dropped bool
}

// Recorder is a Plugin that is told what became of published messages.
type Recorder interface {
	Plugin
	// Published is told of every outcome that came while the call lasts: err is what store.Publisher answered, and the
	// messages have partition and offset where they were stored. They are the caller's again when it returns. ctx has the
	// values of the one that the plugin passed on. It may be called concurrently with other calls, and does not wait long.
	Published(ctx context.Context, c *Call, err error, msgs []*store.Message)
}

// Change is a request to the management API.
type Change struct {
	KeyID, Role  string // of the admin key; "" where it was none
	Method, Path string // Path is that of the request
	Remote       string
	Err          error // why it was refused or failed
}

// AdminRecorder is a Plugin that is told of requests to the management API: changes, and what was refused.
type AdminRecorder interface {
	Plugin
	Changed(ctx context.Context, c Change)
}

// Chain makes one handler of the plugins, the first outermost, and what they guard.
func Chain(list []Plugin, last Handler) Handler {
	for i := len(list) - 1; i >= 0; i-- {
		last = list[i].Wrap(last)
	}
	return last
}

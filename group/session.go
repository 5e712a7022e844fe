// Package group is the engine of subscribing: a hub of consumer groups, each with the messages that its clients hold,
// their leases, attempts and acks. It knows no HTTP. See docs/design.md, "A subscribe, step by step".
package group

import (
	"context"
	"time"

	"github.com/kateway/kateway/store"
)

// Key names a group on a topic, both by their names in the store.
type Key struct{ Topic, Group string }

// Mode is how a group's messages are shared among its clients.
type Mode string

// The modes.
const (
	Fifo  Mode = "fifo"  // a partition to one client at a time, in order; it moves to another only when nothing of it is un-acked
	Queue Mode = "queue" // each message to whichever client is free, with a lease of its own
	ByKey Mode = "key"   // as Queue, but the messages of one key go one at a time, in order
)

// Settings belong to a group. Its first client gives them; they are kept while the group has a client, a lease or an
// un-acked message, and 60 s longer. Who comes with others meanwhile is refused: Conflict, with the present ones.
type Settings struct {
	Mode   Mode
	Tags   []string // only messages that have one of them; sorted, none twice; none: all messages
	Filter string   // a CEL expression, see package filter; "": all messages
}

// Policy is what becomes of a group's messages that are not acked for too long. It follows from the names of topic and
// group, see Config.Policy.
type Policy struct {
	MaxAttempts int    // a message that was delivered so often and not acked is dead; 0: no limit
	Retry       string // the topic in the store that is the group's retry queue; "": it has none
	Dead        string // the same of its dead queue; without one nothing is ever dead
}

// Ask is what a client wants.
type Ask struct {
	Key
	Settings
	Start    store.Start   // where a group without a position begins
	Lease    time.Duration // how long a message may stay un-acked
	Prefetch int           // how many messages the client may hold un-acked
	First    int           // how many the first Next will take, so that a home far away can send them with its answer; 0: not known
	Client   string        // the name the client gave itself: two sessions with one name are the same client; "" = no other is
	Stays    bool          // what is un-acked when the session is closed stays leased (a poll) instead of being due at once (a stream)
	Held     []Ref         // what the client holds of a home that has left the group, see Holder: where that is leased still, it is this client's
}

// Ref is one delivery of one message. Hold tells apart the times that a gateway held the partition, Attempt the deliveries within.
type Ref struct {
	Retry         bool // partition and offset are those of the group's retry queue
	Partition     int32
	Offset        int64
	Attempt, Hold uint32
}

// Delivery is a message in a client's hands until it is settled or its lease ends. The message is shared: nobody writes to
// it. One from the retry queue is as it was published: partition, offset, time and headers are the origin's.
type Delivery struct {
	*store.Message
	Ref Ref
}

// Batch is what one Next brought. Gaps come before the messages. Its slices are good until the next call of Next.
type Batch struct {
	Gaps       []store.Gap
	Deliveries []Delivery
}

// Op is what a client says of a message.
type Op uint8

const (
	Ack    Op = iota // done
	Nack             // not done: due again after Verb.Delay
	Extend           // still at it: the lease starts anew, with Verb.Lease
	Bury             // not done, and never will be: to the dead queue, with Verb.Cause; Fenced where the group has none
	Return           // never reached the client: due again at once, before all else, and the delivery does not count as an attempt
)

// Verb settles one delivery.
type Verb struct {
	Ref
	Op    Op
	Delay time.Duration // Nack
	Lease time.Duration // Extend; 0 = the lease it was delivered with
	Cause string        // Bury: why, for whoever looks at the dead queue; at most 256 bytes
}

// At is a message's place in a topic.
type At struct {
	Partition int32
	Offset    int64
}

// Session is one client of a group, wherever the group has its home. One goroutine at a time may call Next; Settle and
// Close may be called concurrently with it.
type Session interface {
	// Next waits for the first delivery or gap until ctx ends, and answers what is at hand, at most max deliveries. With a
	// ctx that has ended it does not wait. The client holds what it got, also when ctx ended meanwhile.
	// Errors: ctx.Err() when nothing came; ErrMoved when the group goes on elsewhere, and the client has to Open it again;
	// errs.Draining when the gateway stops; errs.UnknownTopic when the topic is gone; errs.Unavailable when the store can't be
	// read. After any but ctx.Err() the session is over; what the client holds it can still settle by Opener.Settle.
	Next(ctx context.Context, max int) (Batch, error)
	// Settle applies the verbs and answers one error per verb: nil, or errs.Fenced when the delivery is no longer this
	// client's. Acking what is acked already is nil. ErrMoved when the group has gone elsewhere, and the verb was not taken:
	// Opener.Settle brings it there.
	Settle(verbs ...Verb) []error
	// Close says that the client has gone; see Ask.Stays. It does not wait. A second Close does nothing.
	Close()
}

// Holder is a Session that can tell, once Next has answered ErrMoved, what its client had not settled by then: to be told to
// the group's next home, in Ask.Held.
type Holder interface{ Held() []Ref }

// Opener is what subscribers need of the hub.
type Opener interface {
	// Open makes the caller a client of the group, and this process a member of it if it is none yet. It returns when the
	// positions of all partitions are committed. ctx bounds only that. Kinds: Conflict when the group has other settings;
	// InvalidParam for a filter that can't be understood; Draining; those of store.Subscriber.
	Open(ctx context.Context, ask Ask) (Session, error)
	// Settle is Session.Settle for deliveries of any client of the group, also of ones made before this process started. It
	// waits, bounded by ctx, until the partitions are held here; of one that is not by then the verbs are Fenced. ErrMoved, for all
	// of them, when the group is just leaving for another home, and nothing was done.
	Settle(ctx context.Context, key Key, verbs ...Verb) []error
	// Through marks everything up to and including the offset as done, on each partition, and answers one error per partition.
	// Conflict for an offset beyond what was delivered; otherwise as Settle.
	Through(ctx context.Context, key Key, at ...store.Position) []error
	// Mark marks single messages as done, whoever holds them or nobody, and answers one error per message. Conflict for one
	// that is too far ahead of what is done; otherwise as Settle.
	Mark(ctx context.Context, key Key, at ...At) []error
	// Receipts makes and reads the receipts of a group.
	Receipts(key Key) *Receipts
}

package store

import (
	"context"
	"time"
)

// Spooler is a power of a Publisher that keeps on the local disk what the store behind it can't take now: a Publish then
// answers nil, with Offset set to Spooled. What is spooled is durable on this disk, not replicated, and can't be read until it
// is drained. All methods may be called concurrently.
type Spooler interface {
	// SpoolStatus is how it is now. It does not wait for the disk.
	SpoolStatus() SpoolStatus
	// Asides lists messages that the store refused for good when they were drained, by id, from the one after the id given
	// on, at most max of them. Kind Unavailable.
	Asides(ctx context.Context, after uint64, max int) ([]Aside, error)
	// Requeue gives messages that were set aside back to the spool, behind what waits there; all of them where no id is given.
	// It answers how many there were. Kinds: Unavailable, DiskFull.
	Requeue(ctx context.Context, ids ...uint64) (int, error)
	// Discard removes messages that were set aside, all of them where no id is given, and answers how many there were. Kind Unavailable.
	Discard(ctx context.Context, ids ...uint64) (int, error)
}

// SpoolStatus is what is in a spool.
type SpoolStatus struct {
	On       bool // new messages may be spooled; what is there is drained in any case
	Messages int64
	Bytes    int64     // of them, what is set aside included
	Limit    int64     // of Bytes
	Oldest   time.Time // when the oldest message was accepted; zero where there is none
	Late     bool      // Oldest is older than a message should be
	Aside    int64     // messages set aside
	Fault    error     // why nothing can be spooled, nil where it can
	Topics   []SpoolTopic
}

// SpoolTopic is a topic with spooled messages.
type SpoolTopic struct {
	Topic    string
	Messages int64
	Bytes    int64
	Oldest   time.Time
	Err      error // of the last attempt to drain it that failed, nil where none has or the last one did not
}

// Aside is a message that the store refused for good.
type Aside struct {
	ID      uint64
	Topic   string
	At      time.Time // when it was set aside
	Cause   string
	Code    string // the error code of the refusal
	Message *Message
}

package group

import (
	"time"

	"github.com/kateway/kateway/store"
)

// origin answers what a message of the retry queue was when it was published, how often it was delivered, and when it is
// due again. Not ok for a message that no group put there.
func origin(m *store.Message) (restored *store.Message, attempts uint32, due time.Time, ok bool) {
	return m, 0, time.Time{}, false
}

// OriginInfo is where a message of a retry or dead queue came from, and why.
type OriginInfo struct {
	Partition int32     // of the topic
	Offset    int64     // of the topic
	Time      time.Time // when it was published; millisecond precision
	Attempts  uint32    // deliveries so far
	Cause     string    // why it was moved
	Due       time.Time // not delivered before; zero in a dead queue
}

// Origin reads what a message of a retry or dead queue says of where it came from. Not ok for one that no group put there.
func Origin(*store.Message) (OriginInfo, bool) { return OriginInfo{}, false }

// Redo makes of a message of the dead queue one for the retry queue: due now, with no attempts behind it. The bytes are shared.
func Redo(dead *store.Message) *store.Message { return dead }

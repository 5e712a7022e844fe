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

package group

import (
	"time"

	"github.com/kateway/kateway/store"
)

// move is a message on its way to the group's dead or retry queue. Until the ledger is told how that went, it is neither
// due nor done. Who has got a move from takeMoves answers it by moved or unmoved, each once.
type move struct {
	at       spot
	offset   int64
	msg      *store.Message // as it was published, also where it was read from the retry queue
	attempts uint32
	cause    string
	dead     bool      // to the dead queue; else to the retry queue
	due      time.Time // in the retry queue: not to be delivered before
}

// takeMoves appends what is to be moved and was not handed over yet.
func (l *ledger) takeMoves(dst []*move) []*move { return dst }

// moved says that the message is in the other queue: it is done here. Nothing happens when the partition was lost meanwhile.
func (l *ledger) moved(*move, time.Time) {}

// unmoved says that the message could not be moved: it stays as it is and is handed over again by the next takeMoves.
func (l *ledger) unmoved(*move, time.Time) {}

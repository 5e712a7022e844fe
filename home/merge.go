package home

import (
	"context"

	"github.com/kateway/kateway/group"
)

// Merged is one flow out of several sessions: of a group's homes, or of several topics on one stream. One goroutine at a
// time may call Next; Settle and Close may be called concurrently with it.
type Merged struct {
	sources []group.Session
	keep    bool
}

// Merge makes one flow of open sessions, which belong to it from then on. keep says what becomes of deliveries that came
// while Next had enough: they are kept for the next one (a stream), or go back at once (a poll).
func Merge(keep bool, sessions ...group.Session) *Merged {
	return &Merged{sources: sessions, keep: keep}
}

// Next is Session's, and says which of the sessions the batch is from: its index.
func (m *Merged) Next(ctx context.Context, most int) (from int, b group.Batch, err error) {
	b, err = m.sources[0].Next(ctx, most)
	return 0, b, err
}

// Settle is that of the session with the index.
func (m *Merged) Settle(from int, verbs ...group.Verb) []error {
	return m.sources[from].Settle(verbs...)
}

// Close closes all sessions.
func (m *Merged) Close() {
	for _, s := range m.sources {
		s.Close()
	}
}

package store

import "context"

// Spooled is the Offset of a message that a gateway keeps on its own disk until the store can take it; see Spooler.
const Spooled int64 = -2

type (
	patienceKey struct{}
	unspooled   struct{}
)

// Patience says how long a Publish may take that nobody waits for. It travels in the context, since only a store whose
// publishes time out has to know it; others wait as long as the context does anyway.
type Patience uint8

const (
	// PatientAnswer waits for the outcome of what was sent until the context ends, however long that takes. What can't be sent is
	// still given up after the store's own time.
	PatientAnswer Patience = 1 + iota
	// PatientSend also goes on trying to send. A message is given up only when it is refused.
	PatientSend
)

// WithPatience is a context for a patient Publish.
func WithPatience(ctx context.Context, p Patience) context.Context {
	return context.WithValue(ctx, patienceKey{}, p)
}

// PatienceOf is 0 where nobody asked for any.
func PatienceOf(ctx context.Context) Patience {
	p, _ := ctx.Value(patienceKey{}).(Patience)
	return p
}

// WithoutSpool is a context for a Publish that is not to be spooled.
func WithoutSpool(ctx context.Context) context.Context {
	return context.WithValue(ctx, unspooled{}, true)
}

// MaySpool is false where WithoutSpool said so.
func MaySpool(ctx context.Context) bool { return ctx.Value(unspooled{}) == nil }

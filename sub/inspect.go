package sub

import (
	"context"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/plugins"
	"github.com/kateway/kateway/store"
)

// inspected is a session whose messages pass the plugins before the client gets them. One that is refused is buried, one that
// is dropped is done.
type inspected struct {
	group.Session
	topic   meta.Topic
	inspect plugins.Inspection
	kept    []group.Delivery
}

// Next is group.Session's. The messages are shared with other clients, so that the plugins get copies.
func (s *inspected) Next(ctx context.Context, most int) (group.Batch, error) {
	for {
		b, err := s.Session.Next(ctx, most)
		if err != nil {
			return b, err
		}
		s.kept = s.kept[:0]
		for _, d := range b.Deliveries {
			m := plugins.Message{Message: *d.Message, Topic: s.topic.Name, Ver: s.topic.Ver}
			why := s.inspect(context.WithoutCancel(ctx), &m) // that a client leaves is no fault of a message
			switch {
			case why != nil:
				s.Settle(group.Verb{Ref: d.Ref, Op: group.Bury, Cause: cause(why)}) // fenced: it is somebody else's to look at
			case m.Dropped:
				s.Settle(group.Verb{Ref: d.Ref, Op: group.Ack})
			default:
				d.Message = &m.Message
				s.kept = append(s.kept, d)
			}
		}
		b.Deliveries = s.kept
		if len(b.Deliveries) > 0 || len(b.Gaps) > 0 {
			return b, nil
		}
	}
}

// looker makes of an inspection what a reader without a group asks of each message: is it to come, and as what. Nobody hears
// of one that is refused, since there is nowhere to bury it.
func looker(t meta.Topic, inspect plugins.Inspection) func(context.Context, *store.Message) bool {
	return func(ctx context.Context, m *store.Message) bool {
		in := plugins.Message{Message: *m, Topic: t.Name, Ver: t.Ver}
		err := inspect(context.WithoutCancel(ctx), &in) // that a client leaves is no fault of a message
		*m = in.Message
		return err == nil && !in.Dropped
	}
}

// maxCause is Verb's.
const maxCause = 256

// cause is why a message is refused, in as many bytes as a dead message may carry.
func cause(err error) string {
	text := err.Error()
	return text[:min(len(text), maxCause)]
}

package sub

import (
	"context"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/plugins"
)

// inspected is a session whose messages pass the plugins before the client gets them. One that is refused is buried.
type inspected struct {
	group.Session
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
			m := *d.Message
			if why := s.inspect(ctx, &m); why != nil {
				s.Settle(group.Verb{Ref: d.Ref, Op: group.Bury, Cause: cause(why)}) // fenced: it is somebody else's to look at
				continue
			}
			d.Message = &m
			s.kept = append(s.kept, d)
		}
		b.Deliveries = s.kept
		if len(b.Deliveries) > 0 || len(b.Gaps) > 0 {
			return b, nil
		}
	}
}

// maxCause is Verb's.
const maxCause = 256

// cause is why a message is refused, in as many bytes as a dead message may carry.
func cause(err error) string {
	text := err.Error()
	return text[:min(len(text), maxCause)]
}

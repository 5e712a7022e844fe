package home

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/errs"
)

// served is a session of an edge's client at the home. It stays until the edge closes it or the link ends, also after Next
// has answered an error: so long its client can settle.
type served struct {
	in     *inbound
	id     uint32
	cancel context.CancelFunc
	credit chan int      // one place: what the edge's Next asks for
	seen   atomic.Uint64 // deliveries that the edge says it has handed out
	closed atomic.Bool   // the edge has closed it, and seen is its last word

	mu   sync.Mutex
	open group.Session // nil until it is open
}

func (s *served) session() group.Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open
}

// grant takes credit. An edge that keeps the rules gives it once at a time; of another, what is too much is dropped.
func (s *served) grant(n int) {
	select {
	case s.credit <- n:
	default:
	}
}

// run is the session's life. The edge has closed it, or is gone, when ctx has ended.
func (s *served) run(ctx context.Context, ask *group.Ask) {
	defer s.in.forget(s)
	defer s.in.r.stray(ask.Key)
	session, err := s.in.r.cfg.Hub.Open(ctx, *ask)
	if err != nil {
		s.say(ctx, frameEnd, func(b []byte) []byte { return appendError(b, s.in.r.told(err)) })
		<-ctx.Done()
		return
	}
	s.mu.Lock()
	s.open = session
	s.mu.Unlock()
	s.say(ctx, frameOpened, nil)
	unseen, err := s.pass(ctx, session)
	if err != nil {
		var held []group.Ref
		if h, some := session.(group.Holder); some && errors.Is(err, group.ErrMoved) && !ask.Stays {
			held = h.Held()
		}
		s.say(ctx, frameEnd, func(b []byte) []byte { return appendRefs(appendError(b, err), held) })
	}
	<-ctx.Done()
	verbs := unseen(s.seen.Load())
	if !s.closed.Load() {
		// The link broke. Nobody knows what clients were given before we could hear of it, and still are: that was a delivery, so
		// that the receipt of who has it is not the receipt of who gets it next.
		for i := range verbs {
			verbs[i].Op = group.Nack
		}
	}
	if len(verbs) > 0 {
		session.Settle(verbs...) // what is no longer ours was taken back by others
	}
	session.Close()
}

func (s *served) say(ctx context.Context, kind byte, fill func([]byte) []byte) {
	if ctx.Err() == nil {
		_ = s.in.out.put(kind, s.id, fill) // fails where the link has ended, and ctx soon has too
	}
}

// pass sends what comes, against credit, until the session is over, for the reason answered, or ctx has ended. unseen are
// the verbs that give back what the edge had not handed out when it says how many it had.
func (s *served) pass(ctx context.Context, session group.Session) (unseen func(seen uint64) []group.Verb, err error) {
	var sent, sure uint64 // deliveries; those that were seen for sure
	var last []group.Delivery
	unseen = func(seen uint64) []group.Verb {
		n := min(sent-min(max(seen, sure), sent), uint64(len(last)))
		verbs := make([]group.Verb, 0, n)
		for _, d := range last[uint64(len(last))-n:] {
			verbs = append(verbs, group.Verb{Ref: d.Ref, Op: group.Return})
		}
		return verbs
	}
	for {
		var most int
		select {
		case most = <-s.credit:
		case <-ctx.Done():
			return unseen, nil
		}
		sure, last = sent, nil // who asks for more has seen all
		b, err := session.Next(ctx, most)
		if err != nil {
			if ctx.Err() != nil {
				err = nil
			}
			return unseen, err
		}
		sent, last = sent+uint64(len(b.Deliveries)), b.Deliveries
		if err := s.send(b); err != nil {
			return unseen, err // which the edge hears of where the link has not ended
		}
	}
}

// send sends a batch, in several frames where it is large.
func (s *served) send(b group.Batch) error {
	var large error
	for more := true; more; {
		err := s.in.out.add(func(dst []byte) []byte {
			start := len(dst)
			dst = append(beginFrame(dst, frameDeliver, s.id), 0)
			flag := len(dst) - 1
			dst = appendGaps(dst, b.Gaps)
			b.Gaps = nil
			count := len(dst)
			dst = append(dst, 0, 0, 0, 0)
			n := 0
			for n < len(b.Deliveries) && len(dst)-start < fullFrame {
				dst = appendDelivery(dst, &b.Deliveries[n])
				n++
			}
			if len(dst)-start > s.in.r.largest {
				d := &b.Deliveries[n-1]
				large = fmt.Errorf("partition %d offset %d: %d bytes are more than gateways pass to each other; see --max-message: %w",
					d.Ref.Partition, d.Ref.Offset, d.Size(), errs.TooLarge)
				return dst[:start]
			}
			binary.BigEndian.PutUint32(dst[count:], uint32(n))
			b.Deliveries = b.Deliveries[n:]
			if more = len(b.Deliveries) > 0; more {
				dst[flag] = 1
			}
			return endFrame(dst, start)
		})
		if err = cmp.Or(err, large); err != nil {
			return err
		}
	}
	return nil
}

func (in *inbound) forget(s *served) {
	s.cancel()
	in.mu.Lock()
	delete(in.sessions, s.id)
	in.mu.Unlock()
	in.r.metrics.served.Dec()
}

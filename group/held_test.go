package group

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kateway/kateway/internal/errs"
)

// evicted is a client that has the offsets 0, 1 and 2 when its group is evicted, and has acked 1; what it holds, as it says after
// Next told it that the group has moved.
func (w world) evicted(h *Hub, mode Mode) (s Session, got []Delivery, refs []Ref) {
	w.t.Helper()
	ask := explicit(100)
	ask.Mode = mode
	s = w.plain(h, ask)
	w.publish(0, 0, 3)
	got = w.want(s, 3, 0, 1, 2)
	w.settled(s.Settle(verbs(Ack, got[1])...), nil)
	h.Evict(key)
	synctest.Wait()
	if _, err := w.get(s, 3, time.Second); !errors.Is(err, ErrMoved) {
		w.t.Errorf("Next: %v", err)
	}
	refs = s.(Holder).Held()
	slices.SortFunc(refs, func(a, b Ref) int { return int(a.Offset - b.Offset) })
	if !slices.Equal(refs, []Ref{got[0].Ref, got[2].Ref}) {
		w.t.Errorf("it holds %v", refs)
	}
	return s, got, refs
}

// What a client holds when its group moves to another home it holds there: nobody else gets it, its receipts count, and when
// the client leaves it is due at once.
func TestClientsMoveWithWhatTheyHold(t *testing.T) {
	for _, mode := range []Mode{Fifo, Queue, ByKey} {
		for _, early := range []bool{true, false} { // it comes to the new home before the partition does, or after
			t.Run(fmt.Sprintf("%s, early %t", mode, early), func(t *testing.T) {
				inWorld(t, 1, func(t *testing.T, w world) {
					before, after := w.hub(Limits{}), w.hub(Limits{})
					defer w.close(before)
					defer w.close(after)
					s, got, refs := w.evicted(before, mode)
					ask, other := explicit(100), explicit(100)
					ask.Mode, other.Mode, ask.Held = mode, mode, refs
					var moved, stranger Session
					if early {
						moved = w.plain(after, ask)
						s.Close()
						stranger = w.plain(after, other)
					} else {
						s.Close()
						stranger = w.plain(after, other)
						w.nothing(stranger, time.Second)
						moved = w.plain(after, ask)
					}
					w.nothing(stranger, 5*time.Second)
					w.nothing(moved, 5*time.Second)
					w.settled(moved.Settle(verbs(Ack, got[0])...), nil)
					w.nothing(stranger, 5*time.Second)
					moved.Close()
					if again := w.want(stranger, 3, 2); again[0].Ref.Attempt != 2 {
						t.Errorf("it comes again as %+v", again[0].Ref)
					}
					w.settled(stranger.Settle(verbs(Ack, got[2])...), errs.Fenced)
				})
			})
		}
	}
}

// A client that does not come to the new home has its messages until their leases end, and a claim of what is another's, or of
// another delivery, is nothing.
func TestClaimsThatAreNone(t *testing.T) {
	for _, mode := range []Mode{Fifo, Queue} {
		t.Run(string(mode), func(t *testing.T) {
			inWorld(t, 1, func(t *testing.T, w world) {
				before, after := w.hub(Limits{}), w.hub(Limits{})
				defer w.close(before)
				defer w.close(after)
				s, _, refs := w.evicted(before, mode)
				s.Close()
				for i := range refs {
					refs[i].Attempt++
				}
				ask := explicit(100)
				ask.Mode, ask.Held = mode, append(refs, Ref{Partition: 7, Offset: 1, Attempt: 1, Hold: 3})
				wrong := w.plain(after, ask)
				w.nothing(wrong, 20*time.Second)
				wrong.Close()
				ask.Held = nil
				stranger := w.plain(after, ask)
				w.nothing(stranger, 8*time.Second)
				w.pass(2 * time.Second)
				w.want(stranger, 3, 0, 2)
				ask.Held = []Ref{refs[0], refs[1]} // the very deliveries that the stranger has
				thief := w.plain(after, ask)
				thief.Close()
				ask.Held = nil
				w.nothing(w.plain(after, ask), 5*time.Second)
			})
		})
	}
}

// Until its clients have gone, or their time is over, a group that moves takes verbs; what it commits last has them. Nobody is
// given anything meanwhile.
func TestVerbsWhileTheGroupMoves(t *testing.T) {
	for _, mode := range []Mode{Fifo, Queue} {
		t.Run(string(mode), func(t *testing.T) {
			inWorld(t, 1, func(t *testing.T, w world) {
				before, after := w.hub(Limits{}), w.hub(Limits{})
				defer w.close(before)
				defer w.close(after)
				s, got, _ := w.evicted(before, mode)
				w.publish(0, 3, 4)
				w.pass(partTime / 2)
				w.settled(s.Settle(verbs(Ack, got[0])...), nil)
				w.settled(s.Settle(verbs(Return, got[2])...), nil)
				ask := explicit(100)
				ask.Mode = mode
				began := time.Now()
				s.Close()
				next := w.plain(after, ask)
				if again := w.want(next, 5, 2, 3); again[0].Ref.Attempt != 1 {
					t.Errorf("what was given back comes as %+v", again[0].Ref)
				}
				if took := time.Since(began); took > partTime/4 {
					t.Errorf("it waited %v for clients that had gone", took)
				}
			})
		})
	}
}

// A partition that goes to another member while its clients stay: where clients go on at other gateways they hold on to what
// they have, also when it comes back.
func TestLostPartitionsKeepTheirLeases(t *testing.T) {
	for _, mode := range []Mode{Fifo, Queue} {
		t.Run(string(mode), func(t *testing.T) {
			inWorld(t, 2, func(t *testing.T, w world) {
				cfg := w.config(Limits{}, Policy{})
				cfg.Roams = true
				one, two := NewHub(cfg), w.hub(Limits{})
				defer w.close(one)
				w.publish(0, 0, 2)
				w.publish(1, 0, 2)
				ask := explicit(100)
				ask.Mode = mode
				s := w.plain(one, ask)
				got := w.want(s, 4, 0, 1, 0, 1)
				other := w.plain(two, ask)
				w.nothing(other, 10*time.Second)
				lost := slices.IndexFunc(got, func(d Delivery) bool {
					info, _ := two.Info(key)
					return len(info.Partitions) == 1 && info.Partitions[0].Partition == d.Partition
				})
				if lost < 0 {
					t.Fatal("no partition went to the other")
				}
				w.settled(two.Settle(t.Context(), key, Verb{Ref: got[lost].Ref}), nil)
				if n := len(s.(Holder).Held()); n != 4 {
					t.Errorf("it holds %d", n)
				}
				other.Close()
				w.close(two)
				w.pass(time.Second)
				fresh := w.plain(one, ask)
				w.nothing(fresh, 5*time.Second)
				s.Close()
				var again []Delivery
				for len(again) < 3 {
					ds, err := w.get(fresh, 10, time.Second)
					if err != nil {
						t.Fatalf("after %d of 3: %v", len(again), err)
					}
					again = append(again, ds...)
				}
				if slices.ContainsFunc(again, func(d Delivery) bool { return d.Partition == got[lost].Partition && d.Offset == got[lost].Offset }) {
					t.Error("what was acked comes again")
				}
			})
		})
	}
}

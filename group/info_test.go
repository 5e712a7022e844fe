package group

import (
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kateway/kateway/store"
)

func (w world) info(h *Hub, want Info) {
	w.t.Helper()
	synctest.Wait()
	if got, some := h.Info(key); !some || !reflect.DeepEqual(got, want) {
		w.t.Fatalf("%+v, %v; want %+v", got, some, want)
	}
}

func TestInfo(t *testing.T) {
	inWorld(t, 2, func(t *testing.T, w world) {
		h := w.hub(Limits{})
		defer w.close(h)
		if info, some := h.Info(key); some || !reflect.DeepEqual(info, Info{}) {
			t.Errorf("of a group that nobody uses: %+v", info)
		}
		w.publish(1, 0, 3)
		s, other := w.open(h, explicit(100)), w.open(h, explicit(100))
		w.info(h, Info{Mode: Fifo, Clients: 2, Partitions: []PartitionInfo{{Partition: 0}, {Partition: 1}}})
		got := w.want(s, 2, 0, 1)
		w.pass(4 * time.Second)
		got = append(got, w.want(s, 2, 2)...)
		w.pass(3 * time.Second)
		w.info(h, Info{Mode: Fifo, Clients: 2, Partitions: []PartitionInfo{{Partition: 0}, {1, 3, 7 * time.Second}}})
		w.settled(s.Settle(verbs(Ack, got[:2]...)...), nil)
		w.info(h, Info{Mode: Fifo, Clients: 2, Partitions: []PartitionInfo{{Partition: 0}, {1, 1, 3 * time.Second}}})
		other.Close()
		other.Close()
		w.settled(s.Settle(verbs(Ack, got[2])...), nil)
		w.info(h, Info{Mode: Fifo, Clients: 1, Partitions: []PartitionInfo{{Partition: 0}, {Partition: 1}}})
		if n := h.Sessions(); n != 1 {
			t.Errorf("%d sessions, one is open", n)
		}
		w.suspend(h, time.Minute)
		w.info(h, Info{Clients: 1})
		h.Resume(key)
		w.nothing(s, time.Second)
		w.info(h, Info{Mode: Fifo, Clients: 1, Partitions: []PartitionInfo{{Partition: 0}, {Partition: 1}}})
		s.Close()
		w.info(h, Info{Mode: Fifo, Partitions: []PartitionInfo{{Partition: 0}, {Partition: 1}}}) // lingers
		w.pass(time.Minute)
		if info, some := h.Info(key); some || h.Sessions() != 0 || len(h.clients) != 0 {
			t.Errorf("when all have gone: %+v, %d sessions", info, h.Sessions())
		}
	})
}

// A redelivery counts from its own time; what came with a move from when that was.
func TestOldestUnacked(t *testing.T) {
	l := fifoLedger()
	l.gain(false, store.Position{}, 1, t0)
	l.add(false, messages(0, 0, 3), t0)
	stays := explicit(100)
	stays.Stays = true
	s := l.enter(stays)
	l.next(s, 2, at(time.Second))
	l.expire(at(40 * time.Second))
	l.next(s, 2, at(50*time.Second))
	if d := l.windows[spot{}].oldestUnacked(at(55 * time.Second)); d != 5*time.Second {
		t.Errorf("after a redelivery: %v", d)
	}
	p := l.windows[spot{}].position(at(60 * time.Second))
	l = fifoLedger()
	l.gain(false, p, 3, at(62*time.Second))
	l.add(false, messages(0, 0, 3), at(63*time.Second))
	if w := l.windows[spot{}]; w.leased != 2 || w.oldestUnacked(at(70*time.Second)) != 8*time.Second {
		t.Errorf("after a move: %d leased, the oldest for %v", w.leased, w.oldestUnacked(at(70*time.Second)))
	}
}

package home

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// Errors keep their kind and words on the way; what a later version may say is Unavailable.
func TestErrorsOnTheWire(t *testing.T) {
	for _, err := range []error{
		nil, errs.Fenced, fmt.Errorf("partition 1: %w", errs.Fenced), group.ErrMoved, errs.Draining, fmt.Errorf("a: %w", errs.Internal),
	} {
		d := decoder{b: appendError(nil, err)}
		got := d.error()
		if d.bad || len(d.b) > 0 || (got == nil) != (err == nil) || got != nil && (got.Error() != err.Error() || errs.Of(got) != errs.Of(err)) {
			t.Errorf("%v came as %v", err, got)
		}
	}
	d := decoder{b: appendError(nil, fmt.Errorf("left: %w", group.ErrMoved))}
	if err := d.error(); !errors.Is(err, group.ErrMoved) {
		t.Error(err)
	}
	d = decoder{b: appendError(nil, fmt.Errorf("%s: %w", strings.Repeat("é", maxText), errs.Conflict))}
	if err := d.error(); len(err.Error()) > maxText+30 || !errors.Is(err, errs.Conflict) {
		t.Error(err)
	}
	d = decoder{b: appendString(appendString(nil, "of_tomorrow"), "text")}
	if err := d.error(); !errors.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), "of_tomorrow") {
		t.Error(err)
	}
}

func TestAskBounds(t *testing.T) {
	a := group.Ask{Key: group.Key{Topic: "t"}, Prefetch: math.MaxInt, First: math.MaxInt}
	d := decoder{b: append(appendAsk(nil, &a), 1, 2, 3)} // and what a later version says
	if got := d.ask(); d.bad || got.Prefetch != math.MaxInt32 || got.First != math.MaxInt32 {
		t.Errorf("%+v", got)
	}
}

// frames is a stream of frames of both directions as they are, for the fuzzer to begin with.
func frames() []byte {
	q := &request{key: group.Key{Topic: "t", Group: "g"}, op: opThrough, through: []store.Position{{Partition: 1, Next: 2}}}
	b := appendFrame(nil, frameOpen, 1, func(b []byte) []byte {
		return appendAsk(b, &group.Ask{Key: q.key, Settings: group.Settings{Tags: []string{"a"}}, First: 1, Stays: true})
	})
	b = appendFrame(b, frameCredit, 1, func(b []byte) []byte { return binary.AppendUvarint(b, 5) })
	b = appendFrame(b, frameSeen, 1, func(b []byte) []byte { return binary.AppendUvarint(b, 5) })
	b = appendFrame(b, frameSettle, 1, func(b []byte) []byte {
		return appendVerbs(binary.BigEndian.AppendUint32(b, 2), []group.Verb{{Op: group.Bury, Cause: "x"}, {Op: group.Nack, Delay: 1}})
	})
	b = appendFrame(b, frameCall, 3, q.append)
	b = appendFrame(b, frameCancel, 3, nil)
	b = appendFrame(b, framePing, 0, nil)
	b = appendFrame(b, frameClose, 1, func(b []byte) []byte { return binary.AppendUvarint(b, 5) })
	b = appendFrame(b, frameOpened, 1, nil)
	b = appendFrame(b, frameDeliver, 1, func(b []byte) []byte {
		b = appendGaps(append(b, 0), []store.Gap{{Partition: 1, From: 2, To: 3}})
		b = binary.BigEndian.AppendUint32(b, 1)
		return appendDelivery(b, &group.Delivery{
			Message: &store.Message{Key: []byte("k"), Value: []byte("v"), Headers: []store.Header{{Key: "a", Value: []byte("b")}}, Offset: 3},
		})
	})
	b = appendFrame(b, frameResult, 2, func(b []byte) []byte { return appendErrors(b, []error{nil, errs.Fenced}) })
	b = appendFrame(b, frameAway, 0, nil)
	return appendFrame(b, frameEnd, 1, func(b []byte) []byte { return appendError(b, group.ErrMoved) })
}

// Whatever a home sends, the edge is none the worse for it: garbage is an error that ends the link.
func FuzzEdge(f *testing.F) {
	f.Add(frames())
	f.Add([]byte{0, 0, 0, 4, 1, 0, 0, 0, 0})
	f.Add([]byte{255, 255, 255, 255, 1, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		l := newLink("gw2", minMessage, func() {})
		for id := range uint32(4) {
			l.sessions[id] = &remote{l: l, id: id, wake: make(chan struct{}, 1)}
			l.calls[id] = make(chan frame, 1)
		}
		err := l.read(bytes.NewReader(data))
		if !errors.Is(err, errLost) {
			t.Fatal(err)
		}
		l.end(err)
	})
}

// The same of what an edge sends.
func FuzzHome(f *testing.F) {
	f.Add(frames())
	f.Fuzz(func(t *testing.T, data []byte) {
		hub := &fakeHub{here: map[group.Key]int{}}
		r := New(Config{Self: "gw1", Hub: hub, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
		in := &inbound{r: r, out: newOutbox(), log: r.cfg.Log, sessions: map[uint32]*served{}, calls: map[uint32]context.CancelFunc{}}
		in.ctx, in.end = context.WithCancel(t.Context())
		drained := make(chan struct{})
		go func() {
			defer close(drained)
			_, _ = io.Copy(io.Discard, in.out)
		}()
		_ = in.read(bytes.NewReader(data))
		in.end()
		_ = in.out.Close()
		in.wg.Wait()
		<-drained
		if n := len(hub.sessions()); n != 0 {
			t.Errorf("%d sessions are open", n)
		}
		if err := r.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// A frame that says it is larger than any is refused before anything of it is read.
func TestFrameBounds(t *testing.T) {
	for n, fine := range map[uint32]bool{0: false, 4: false, 5: true, 1000 + minPart: true, 1001 + minPart: false, math.MaxUint32: false} {
		head := append(binary.BigEndian.AppendUint32(nil, n), frameDeliver, 0, 0, 0, 1)
		r := newFrameReader(io.MultiReader(bytes.NewReader(head), bytes.NewReader(make([]byte, 2000))), 1000)
		if f, err := r.read(); (err == nil) != fine || fine && len(f.payload) != int(n)-minPart {
			t.Errorf("length %d: %v", n, err)
		}
	}
	r := frameReader{r: bufio.NewReader(bytes.NewReader([]byte{0, 0, 0, 9, 1, 0, 0, 0, 0, 1, 2})), largest: 100}
	if _, err := r.read(); !errors.Is(err, errs.Unavailable) {
		t.Error(err)
	}
}

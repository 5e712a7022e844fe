package broadcast

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/kateway/kateway/store"
)

// A form is made by the first reader who wants it, and weighs on the ring as long as the message is in it.
func TestFormsAreMadeOnce(t *testing.T) {
	w := newWorld(t, 1, Limits{Messages: 2})
	var made atomic.Int64
	build := func() []byte {
		made.Add(1)
		return []byte(strings.Repeat("x", 1000))
	}
	const readers = 8
	var open [readers]*Reader
	for i := range open {
		r, err := w.hub.Open(t.Context(), Ask{Topic: topic})
		w.must(err)
		t.Cleanup(r.Close)
		open[i] = r
	}
	w.fill(1, 0)
	var wg sync.WaitGroup
	var late *Item
	for i, r := range open {
		b, err := r.Next(t.Context(), 1)
		w.must(err)
		it := b.Items[0]
		if i == 0 {
			late = &it
		}
		wg.Go(func() {
			if form, ok := it.Shared(TextFrame, build); !ok || len(form) != 1000 {
				t.Errorf("%v, %d bytes", ok, len(form))
			}
		})
	}
	wg.Wait()
	if n := made.Load(); n != 1 {
		t.Errorf("it was made %d times", n)
	}
	ring := open[0].tap.ring
	if n := ring.size(); n < 1000 {
		t.Errorf("the ring weighs %d", n)
	}
	w.fill(2, 0)
	for ring.empty() || open[0].tap.ring.first == 0 {
		_, err := open[1].Next(t.Context(), 1)
		w.must(err)
	}
	if n := ring.size(); n > 2*slotBytes+500 || ring.forms.Load() != 0 {
		t.Errorf("without the message the ring weighs %d, forms %d", n, ring.forms.Load())
	}
	if _, ok := late.Shared(BinaryFrame, build); !ok || ring.forms.Load() != 0 || made.Load() != 2 {
		t.Errorf("a form of a message that has left weighs %d", ring.forms.Load())
	}
}

// What is the reader's alone has no shared form: messages from the store, and cursors that differ from the others'.
func TestFormsOfOneReader(t *testing.T) {
	w := newWorld(t, 2, Limits{})
	w.fill(1, 0)
	r, err := w.hub.Open(t.Context(), Ask{Topic: topic, Start: store.Start{}})
	w.must(err)
	defer r.Close()
	one, err := w.hub.Open(t.Context(), Ask{Topic: topic, From: At(1, 0)})
	w.must(err)
	defer one.Close()
	w.fill(1, 1)
	for _, r := range []*Reader{r, one} {
		b, err := r.Next(t.Context(), 1)
		w.must(err)
		if _, ok := b.Items[0].Shared(TextFrame, func() []byte { t.Error("built"); return nil }); ok {
			t.Errorf("%+v is shared", b.Items[0])
		}
	}
}

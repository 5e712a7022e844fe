package home

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"
)

// Whoever adds to a full outbox waits until it was emptied, and those who must not wait do not.
func TestOutboxIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutbox()
		var added int
		var wg sync.WaitGroup
		wg.Go(func() {
			for range 30 {
				if err := o.add(func(b []byte) []byte { return append(b, make([]byte, fullOutbox/10)...) }); err != nil {
					t.Error(err)
				}
				added++
			}
		})
		synctest.Wait()
		if added < 10 || added > 11 {
			t.Errorf("%d parts were added", added)
		}
		if err := o.put(framePing, 0, nil); err != nil {
			t.Error(err)
		}
		total := 0
		for total < 30*(fullOutbox/10)+frameHead {
			b, err := o.take()
			if err != nil || len(b) > fullOutbox+fullOutbox/5 {
				t.Fatalf("%d bytes, %v", len(b), err)
			}
			total += len(b)
			o.give(b)
			synctest.Wait()
		}
		wg.Wait()
		if !o.empty() {
			t.Error("something is left")
		}
	})
}

// Close lets what is there out, and ends all waits.
func TestOutboxClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutbox()
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := o.take(); err == nil {
				return
			}
			t.Error("nothing was taken")
		})
		synctest.Wait()
		_ = o.put(framePing, 0, nil)
		wg.Wait()
		want := bytes.Repeat([]byte("x"), fullOutbox)
		_ = o.add(func(b []byte) []byte { return append(b, want...) })
		wg.Go(func() {
			if err := o.add(func(b []byte) []byte { return append(b, 'y') }); !errors.Is(err, errOutboxClosed) {
				t.Error(err)
			}
		})
		synctest.Wait()
		_ = o.Close()
		_ = o.Close()
		wg.Wait()
		if got, err := io.ReadAll(o); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if _, err := o.take(); err != io.EOF {
			t.Error(err)
		}
	})
}

package disk

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/kateway/kateway/internal/errs"
)

const (
	maxRoundOps   = 4096
	maxRoundBytes = 4 << 20
)

// Op is what a caller has the writer do, and waits for. It is embedded in what says what that is.
type Op struct {
	state atomic.Int32
	done  chan error // one answer, when the writer took it
}

// States of an op.
const (
	opQueued int32 = iota
	opTaken        // the writer has it: nobody knows the outcome until it is answered
	opLeft         // the caller left first: it is not done
)

// NewOp is one that was not queued yet.
func NewOp() Op { return Op{done: make(chan error, 1)} }

// Renew is a new one in the place of one that was answered, or never queued.
func (o *Op) Renew() Op { return Op{done: o.done} }

// Take is true when the op is to be done, and then Answer must follow. Its caller has left where it is false.
func (o *Op) Take() bool { return o.state.CompareAndSwap(opQueued, opTaken) }

// Answer ends an op that was taken. After it, the op belongs to its caller again.
func (o *Op) Answer(err error) { o.done <- err }

// Wait returns the writer's answer. An end of ctx or of the store before it is Unavailable where the writer had not
// begun, and Uncertain where it had; an op that was not answered must not be used again.
func (o *Op) Wait(ctx context.Context, fault *Fault) (answered bool, err error) {
	select {
	case err := <-o.done:
		return true, err
	case <-ctx.Done():
		err = ctx.Err()
	case <-fault.Failed():
		err = fault.Err()
	}
	if o.state.CompareAndSwap(opQueued, opLeft) {
		return false, fmt.Errorf("nothing was written: %w: %w", errs.Unavailable, err)
	}
	select { // an answer that is there counts
	case err := <-o.done:
		return true, err
	default:
		return false, fmt.Errorf("stopped waiting for the disk: %w: %w", errs.Uncertain, err)
	}
}

// Round is what is written together. It is used again and again. Finish is called on a goroutine of its own, the others on another.
type Round[O any] interface {
	Begin()                       // with nothing in it
	Add(op O)                     // unless its caller has left
	Size() (ops int, bytes int64) // of what was added
	Apply() (sync bool)           // gives it to pebble; false: it needs no sync, and all of it is answered
	Finish()                      // waits for the sync, and answers
}

// Write is the writer: it takes what is queued, has it applied as one round, and leaves the waiting for its sync to a second
// goroutine. There are as many rounds at once as it is given. While one is synced the next is gathered until it has enough bytes: a
// smaller one had better wait and grow, where rounds that are small cost more. Pebble syncs all that was applied meanwhile at once.
// It ends when the queue is closed and empty and everything in it answered.
func Write[O any, R Round[O]](queue <-chan O, enough int64, rounds ...R) {
	w := &writer[O, R]{queue: queue, enough: enough, free: make(chan R, len(rounds)), syncing: make(chan R, len(rounds)), synced: make(chan struct{}, 1)}
	for _, r := range rounds {
		w.free <- r
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for r := range w.syncing {
			r.Finish()
			w.free <- r
			select {
			case w.synced <- struct{}{}:
			default:
			}
		}
	}()
	for o := range queue {
		r := <-w.free
		r.Begin()
		r.Add(o)
		w.gather(r)
		if ops, _ := r.Size(); ops > 0 && r.Apply() {
			w.syncing <- r
		} else {
			w.free <- r
		}
	}
	close(w.syncing)
	<-ended
}

type writer[O any, R Round[O]] struct {
	queue   <-chan O
	free    chan R // those not in use
	enough  int64
	syncing chan R        // those to be synced, in order
	synced  chan struct{} // one was
}

// gather adds what else is queued. Publishers that were answered just now and have more to say get to say it first.
func (w *writer[O, R]) gather(r R) {
	w.drain(r)
	for _, bytes := r.Size(); len(w.free) < cap(w.free)-1 && bytes < w.enough; _, bytes = r.Size() {
		select {
		case o, open := <-w.queue:
			if !open {
				return
			}
			r.Add(o)
			w.drain(r)
		case <-w.synced:
		}
	}
	runtime.Gosched()
	w.drain(r)
}

// drain adds what is queued now.
func (w *writer[O, R]) drain(r R) {
	for ops, bytes := r.Size(); ops < maxRoundOps && bytes < maxRoundBytes; ops, bytes = r.Size() {
		select {
		case o, open := <-w.queue:
			if !open {
				return
			}
			r.Add(o)
		default:
			return
		}
	}
}

// AwaitWriter returns when the writer has ended, or never will.
func (f *Fault) AwaitWriter(ended <-chan struct{}) {
	select {
	case <-ended:
		return
	case <-f.Failed():
	}
	select {
	case <-ended:
	case <-f.Stuck():
	case <-time.After(time.Second): // pebble waits for a flush that always fails
		f.Stick()
	}
}

// Confirm is the outcome of a round whose sync answered err. Whatever broke, nothing is confirmed after it.
func (f *Fault) Confirm(err error) error {
	if err == nil {
		err = f.Err()
	}
	if err == nil {
		return nil
	}
	f.Fail(fmt.Errorf("sync the log: %w", err))
	return fmt.Errorf("the sync failed: %w: %w", errs.Uncertain, err)
}

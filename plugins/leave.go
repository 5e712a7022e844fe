package plugins

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/kateway/kateway/internal/httpx"
)

// Leaver is a Plugin that lets the work of a call go on when its chain has returned: a WebSocket leaves its request and its
// goroutine behind, which halves what one that is idle costs. What such a plugin has to do when the call has ended it leaves
// to [Call.AtEnd]. A context of its own that it passes on is to last until then too. With a plugin in the chain that is none
// the chain is around the whole call.
type Leaver interface {
	Plugin
	// Leaves does nothing: it tells such plugins from others.
	Leaves()
}

// Ender is told of the end of a call.
type Ender interface {
	// End is called once, with what became of the call, and does not wait long.
	End(err error)
}

// AtEnd is for who has come back from next, with err, or is about to panic: e is told of the call's end, at once, or, where the
// work goes on, when it has ended, in another goroutine. Those behind are told first. To be called by the plugin's handler
// alone, and deferred where a panic must not keep e from being told.
func (c *Call) AtEnd(err error, e Ender) {
	if c.life == nil || !c.life.end.await(ending{e, c.box}) {
		e.End(err)
	}
}

// Leave has the call go on when the work returns, which it is about to do without an error: until over is called, with what
// became of it. From now on ctx is the call's context: where plugins have made one of their own it ends when one of them ends the
// call, or when all is over, and has the request's id; else it is an empty one. The request, its context and what the Call had of
// it are not to be used any more. Not ok: a plugin waits for the end, so that the work has to last until then.
func (c *Call) Leave() (ctx context.Context, over func(error), ok bool) {
	if c.life == nil {
		return nil, nil, false
	}
	c.request, c.Header, c.Answer, c.TLS = nil, nil, nil, nil
	return c.life.leave(), c.life.end.over, true
}

// life is the context of a call whose work may leave its request behind. What is kept of it then is its end, where no plugin has
// made a context of it.
type life struct {
	context.Context // ends with the request's until the work leaves
	cancel          context.CancelFunc
	unfollow        func() bool
	values          atomic.Pointer[context.Context] // whose values it has
	last            context.Context                 //nolint:containedctx // what the chain has made of it: the work's
	end             *end
}

func newLife(r *http.Request) *life {
	l, ctx := &life{end: new(end)}, r.Context()
	l.Context, l.cancel = context.WithCancel(context.Background())
	l.values.Store(&ctx)
	l.unfollow = context.AfterFunc(ctx, l.cancel)
	return l
}

// Value is a context's.
func (l *life) Value(key any) any {
	if v := l.Context.Value(key); v != nil {
		return v
	}
	return (*l.values.Load()).Value(key)
}

// leave answers the context that the work has from now on.
func (l *life) leave() context.Context {
	l.unfollow()
	l.unfollow = nil // it has the request's context
	if l.last == context.Context(l) {
		l.cancel() // nobody has it any more
		l.end.leave(nil)
		return context.Background()
	}
	l.end.leave(l.cancel)
	rest := httpx.Outlive(*l.values.Load())
	l.values.Store(&rest)
	return l.last
}

// pass says that the chain has returned.
func (l *life) pass() {
	if l.end.pass() {
		return
	}
	l.unfollow()
	l.cancel()
}

// end is the end of such a call, and who is to be told of it.
type end struct {
	mu      sync.Mutex
	left    bool
	passed  bool // the chain has returned
	ended   bool // the work has
	told    bool
	outcome error // of the work
	list    []ending
	cancel  context.CancelFunc // of the call's context, when all are told; nil: nobody has it
}

// ending is who is to be told of an end, and the plugin that he is of, where its failures are its own.
type ending struct {
	e   Ender
	box *box
}

func (n *end) leave(cancel context.CancelFunc) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.left, n.cancel = true, cancel
}

// await keeps e for the end. It is false when that has been, or the work has not left.
func (n *end) await(e ending) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.left || n.told {
		return false
	}
	n.list = append(n.list, e)
	return true
}

// pass says that the chain has returned, and answers whether the work has left.
func (n *end) pass() (left bool) {
	n.mu.Lock()
	n.passed, left = true, n.left
	n.mu.Unlock()
	n.tell()
	return left
}

// over says what became of the work.
func (n *end) over(err error) {
	n.mu.Lock()
	n.ended, n.outcome = true, err
	n.mu.Unlock()
	n.tell()
}

// tell tells who waits for it, when both the chain has returned and the work has ended.
func (n *end) tell() {
	n.mu.Lock()
	now := n.passed && n.ended && !n.told
	n.told = n.told || now
	n.mu.Unlock()
	if !now {
		return
	}
	for _, e := range n.list {
		e.tell(n.outcome)
	}
	if n.cancel != nil {
		n.cancel()
	}
}

func (e ending) tell(err error) {
	if e.box == nil {
		e.e.End(err)
		return
	}
	_ = e.box.within(func() error { // a panic was told, and changes nothing any more
		e.e.End(err)
		return nil
	})
}

package home

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/httpx"
)

const (
	answerTime = 2 * time.Second        // for a home to answer the request that joins us
	pingEvery  = 500 * time.Millisecond // the home is asked for a word that often
	maxSilent  = 4                      // so many times without one, and the home is gone: 2 s after the first ping
	idleLink   = time.Minute            // a link that nobody uses is closed
	maxVerbs   = 10_000                 // in one frame
	maxProblem = 64 << 10
)

// errLost ends what went over a link that broke. Whether the last that was said arrived is not known.
var errLost = fmt.Errorf("the connection to the group's home was lost: %w", errs.Unavailable)

// link is the edge's end of the request that joins it to a home.
type link struct {
	id     string // the home's
	limit  int    // bytes of a frame
	silent func() // called when the home stops, and before the link ends because the home is silent
	out    *outbox
	cancel context.CancelFunc // ends the request
	ready  chan struct{}      // closed when the home has answered, or the link has ended before
	gone   chan struct{}      // closed when nothing is left of the link
	heard  atomic.Bool        // something, since the last ping

	mu       sync.Mutex
	sessions map[uint32]*remote
	calls    map[uint32]chan frame // each has one place
	last     uint32                // number given
	err      error                 // why it has ended
	away     bool                  // the home takes nothing new
	closing  bool                  // we are ending it
	idle     int                   // pings since it was last used
}

func newLink(id string, limit int, silent func()) *link {
	return &link{
		id: id, limit: limit, silent: silent, out: newOutbox(), ready: make(chan struct{}), gone: make(chan struct{}),
		sessions: map[uint32]*remote{}, calls: map[uint32]chan frame{},
	}
}

// run joins the home and serves the link until it ends. Who waits for ready learns from err how it went. It reports
// whether the home ever answered.
func (l *link) run(ctx context.Context, peers Peers, self string) (joined bool) {
	ctx, l.cancel = context.WithCancel(ctx)
	defer l.cancel()
	body, err := l.join(ctx, peers, self)
	if errors.Is(err, errBroken) && ctx.Err() == nil {
		l.out = newOutbox() // nothing was put into the other one: nobody has the link yet
		body, err = l.join(ctx, peers, self)
	}
	if err != nil {
		l.end(err)
		close(l.ready)
		close(l.gone)
		return false
	}
	// net/http looks at the context of a request whose both bodies are open only between two reads of ours. Closing the
	// answer ends it, though it waits for a connection that takes nothing to be given up.
	context.AfterFunc(ctx, func() {
		defer close(l.gone)
		_ = body.Close()
	})
	close(l.ready)
	var wg sync.WaitGroup
	wg.Go(func() { l.watch(ctx) })
	l.end(l.read(body))
	l.cancel()
	wg.Wait()
	return true
}

// errUnknown says that the gateway is not known to Peers yet: it has only just joined, or left.
var errUnknown = fmt.Errorf("the gateway can't be reached: %w", errs.Unavailable)

// errBroken says that the request could not be made, or not be answered. It may have been sent over a connection that a process
// before the present one had.
var errBroken = fmt.Errorf("no connection: %w", errs.Unavailable)

// join sends the request and answers the body of the answer.
func (l *link) join(ctx context.Context, peers Peers, self string) (io.ReadCloser, error) {
	via, base, ok := peers.Reach(l.id)
	if !ok {
		return nil, errUnknown
	}
	base.Path = pathLink
	base.RawQuery = "from=" + url.QueryEscape(self)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base.String(), l.out)
	if err != nil {
		return nil, fmt.Errorf("gateway %s: %w: %w", l.id, err, errs.Unavailable)
	}
	late := time.AfterFunc(answerTime, l.cancel)
	resp, err := via.RoundTrip(req)
	switch {
	case err != nil:
		late.Stop()
		return nil, fmt.Errorf("gateway %s: %w: %w", l.id, err, errBroken)
	case !late.Stop():
		_ = resp.Body.Close()
		return nil, fmt.Errorf("gateway %s did not answer within %s: %w", l.id, answerTime, errs.Unavailable)
	case resp.StatusCode != http.StatusOK:
		defer func() { _ = resp.Body.Close() }()
		return nil, refusal(l.id, resp)
	}
	return resp.Body, nil
}

// refusal is Draining for a home that stops, else Unavailable.
func refusal(id string, resp *http.Response) error {
	var p httpx.Problem
	kind := errs.Unavailable
	if json.NewDecoder(io.LimitReader(resp.Body, maxProblem)).Decode(&p) == nil && p.Code == errs.Draining.Code() {
		kind = errs.Draining
	}
	return fmt.Errorf("gateway %s answered %d, code %q: %w", id, resp.StatusCode, p.Code, kind)
}

// read passes on what the home sends, until the link ends, and answers why.
func (l *link) read(body io.Reader) error {
	r := newFrameReader(&hearing{body, &l.heard}, l.limit)
	for {
		f, err := r.read()
		if err != nil {
			return fmt.Errorf("gateway %s: %w: %w", l.id, err, errLost)
		}
		if err := l.receive(f); err != nil {
			return fmt.Errorf("gateway %s: %w: %w", l.id, err, errLost)
		}
	}
}

// hearing notes that bytes came.
type hearing struct {
	r     io.Reader
	heard *atomic.Bool
}

func (h *hearing) Read(p []byte) (int, error) {
	n, err := h.r.Read(p)
	if n > 0 {
		h.heard.Store(true)
	}
	return n, err
}

// receive takes one frame. It waits for nobody. An error is the other side's fault.
func (l *link) receive(f frame) error {
	switch f.kind {
	case frameOpened, frameDeliver, frameEnd:
		l.mu.Lock()
		s := l.sessions[f.number]
		l.mu.Unlock()
		if s == nil {
			return nil // closed meanwhile
		}
		return s.receive(f)
	case frameResult:
		l.mu.Lock()
		c := l.calls[f.number]
		delete(l.calls, f.number)
		l.mu.Unlock()
		if c != nil {
			f.payload = append([]byte(nil), f.payload...)
			c <- f
		}
	case frameAway:
		l.mu.Lock()
		l.away = true
		l.mu.Unlock()
		l.silent()
	}
	return nil
}

// watch asks the home for a word now and then, and ends the link when none comes, or when nobody needs it any more.
func (l *link) watch(ctx context.Context) {
	ticker := time.NewTicker(pingEvery)
	defer ticker.Stop()
	for silent := 0; ; silent++ { // counted, not timed: when it is us who stood still, the home is not to blame
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if l.heard.Swap(false) {
			silent = 0
		}
		switch {
		case silent >= maxSilent:
			l.silent()
			l.end(fmt.Errorf("gateway %s answers no ping: %w: %w", l.id, errSilent, errLost))
			l.cancel()
			return
		case l.unused():
			_ = l.out.Close() // the home ends its side then
		}
		_ = l.out.put(framePing, 0, nil) // fails once the link has ended
	}
}

// errSilent tells a home that says nothing from one that hung up.
var errSilent = errors.New("it is silent")

// unused reports that nobody has used the link for a while, or nobody does and nobody ought to. Nobody will then.
func (l *link) unused() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.sessions)+len(l.calls) > 0 {
		l.idle = 0
		return false
	}
	l.idle++
	l.closing = l.closing || l.away || l.idle > int(idleLink/pingEvery)
	return l.closing
}

// end ends all that goes over the link.
func (l *link) end(err error) {
	l.mu.Lock()
	if l.err == nil {
		l.err = err
	}
	sessions, calls := l.sessions, l.calls
	l.sessions, l.calls = map[uint32]*remote{}, map[uint32]chan frame{}
	l.mu.Unlock()
	_ = l.out.Close()
	for _, s := range sessions {
		s.fail(errLost)
	}
	for _, c := range calls {
		close(c)
	}
}

// usable answers why nothing new may go over the link: why it has ended, errLost where it is about to, Draining where the
// home stops.
func (l *link) usable() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.usableLocked()
}

// live reports whether the link has not ended, and is not about to.
func (l *link) live() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err == nil && !l.closing
}

func (l *link) usableLocked() error {
	switch {
	case l.err != nil:
		return l.err
	case l.closing:
		return errLost
	case l.away:
		return fmt.Errorf("gateway %s: %w", l.id, errs.Draining)
	}
	return nil
}

// number gives out one that is free. The caller holds the lock.
func (l *link) number() uint32 {
	for {
		l.last++
		if l.sessions[l.last] == nil && l.calls[l.last] == nil {
			return l.last
		}
	}
}

// open makes the caller a client of the group at the home. It waits for the home's word, bounded by ctx.
func (l *link) open(ctx context.Context, ask *group.Ask) (*remote, error) {
	s := &remote{l: l, stays: ask.Stays, asked: ask.First > 0, wake: make(chan struct{}, 1)}
	l.mu.Lock()
	if err := l.usableLocked(); err != nil {
		l.mu.Unlock()
		return nil, err
	}
	s.id = l.number()
	l.sessions[s.id] = s
	l.mu.Unlock()
	err := l.out.add(func(b []byte) []byte {
		return appendFrame(b, frameOpen, s.id, func(b []byte) []byte { return appendAsk(b, ask) })
	})
	if err != nil {
		err = errLost
	} else {
		err = s.opening(ctx)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// ask sends a frame of the kind with a call's number and what fill appends, and waits for the n errors of the result.
func (l *link) ask(ctx context.Context, kind byte, session uint32, n int, fill func([]byte) []byte) ([]error, error) {
	c := make(chan frame, 1)
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		return nil, errLost
	}
	call := l.number()
	l.calls[call] = c
	l.mu.Unlock()
	err := l.out.add(func(b []byte) []byte {
		if kind == frameCall {
			return appendFrame(b, kind, call, fill)
		}
		return appendFrame(b, kind, session, func(b []byte) []byte { return fill(binary.BigEndian.AppendUint32(b, call)) })
	})
	if err != nil {
		l.forgetCall(call)
		return nil, errLost
	}
	select {
	case f, ok := <-c:
		if !ok {
			return nil, errLost
		}
		d := decoder{b: f.payload}
		out := d.errors(n)
		return out, d.err()
	case <-ctx.Done():
		l.forgetCall(call)
		_ = l.out.put(frameCancel, call, nil)
		return nil, fmt.Errorf("gateway %s has not answered yet: %w: %w", l.id, ctx.Err(), errs.Unavailable)
	}
}

func (l *link) forgetCall(call uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.calls, call)
}

func (l *link) forget(s *remote) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.sessions, s.id)
}

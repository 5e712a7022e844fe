package home

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/httpx"
)

const (
	listenEvery = time.Second // the edge pings more often than that
	maxDeaf     = 5           // so many times nothing was heard, and the edge is gone
	maxSessions = 100_000     // of one edge; who opens another is refused: Overloaded
	maxCalls    = 1024        // of one edge at a time, likewise
	callTime    = 10 * time.Second
)

// inbound is the home's end of a link: it makes clients of the local groups out of the edge's sessions. Its goroutines
// read, write, watch and end, and each session has one.
type inbound struct {
	r   *Router
	out *outbox
	log *slog.Logger
	ctx context.Context //nolint:containedctx // the link's lifetime, which sessions and calls share
	end context.CancelFunc

	heard    atomic.Bool
	calling  atomic.Int64
	wg       sync.WaitGroup
	mu       sync.Mutex
	sessions map[uint32]*served
	calls    map[uint32]context.CancelFunc
}

// Routes serves sessions to other gateways. They belong on a listener that lets in gateways only.
func (r *Router) Routes() []httpx.Route {
	return []httpx.Route{{Method: http.MethodPost, Path: pathLink, Handler: r.serveLink}}
}

func (r *Router) serveLink(w http.ResponseWriter, req *http.Request) error {
	q, err := httpx.ParseQuery(req, "from")
	if err != nil {
		return err
	}
	if req.ProtoMajor < 2 {
		return fmt.Errorf("gateways speak HTTP/2 here: %w", errs.InvalidParam)
	}
	in := &inbound{
		r: r, out: newOutbox(), log: r.cfg.Log.With("gateway", q.Get("from")),
		sessions: map[uint32]*served{}, calls: map[uint32]context.CancelFunc{},
	}
	if !r.admit(in) {
		return errs.Draining
	}
	defer r.dismissed(in)
	in.ctx, in.end = context.WithCancel(req.Context())
	defer in.end()
	unhook := context.AfterFunc(r.ctx, in.end)
	defer unhook()
	return in.serve(w, req.Body)
}

// serve serves the link until one side ends it.
func (in *inbound) serve(w http.ResponseWriter, body io.Reader) error {
	control := http.NewResponseController(w)
	w.Header()["Content-Type"] = []string{"application/octet-stream"}
	w.WriteHeader(http.StatusOK)
	in.wg.Go(func() {
		<-in.ctx.Done()
		past := time.Unix(1, 0)
		_ = in.out.Close()
		_ = control.SetReadDeadline(past) // ends a Read and a Write that wait
		_ = control.SetWriteDeadline(past)
	})
	in.wg.Go(func() {
		defer in.end()
		if err := in.read(body); err != nil && in.ctx.Err() == nil {
			in.log.Debug("link with another gateway ended", "error", err)
		}
	})
	in.wg.Go(in.watch)
	in.write(w, control)
	in.end()
	in.wg.Wait()
	return nil
}

// write sends what the sessions have to say, and flushes when nothing more is at hand.
func (in *inbound) write(w io.Writer, control *http.ResponseController) {
	for {
		if in.out.empty() && control.Flush() != nil { // the first time that sends the header
			return
		}
		b, err := in.out.take()
		if err != nil {
			return
		}
		if _, err := w.Write(b); err != nil {
			return
		}
		in.out.give(b)
	}
}

// watch ends the link with an edge that is silent.
func (in *inbound) watch() {
	ticker := time.NewTicker(listenEvery)
	defer ticker.Stop()
	for deaf := 0; deaf < maxDeaf; deaf++ {
		select {
		case <-in.ctx.Done():
			return
		case <-ticker.C:
		}
		if in.heard.Swap(false) {
			deaf = 0
		}
	}
	in.log.Warn("another gateway fell silent: what its clients hold is given to others when their leases end")
	in.end()
}

// read takes the edge's frames until it ends the link (nil), or something goes wrong.
func (in *inbound) read(body io.Reader) error {
	r := newFrameReader(&hearing{body, &in.heard}, in.r.largest)
	for {
		f, err := r.read()
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = in.receive(f)
		}
		if err != nil {
			return err
		}
	}
}

// receive takes one frame. It waits for no client: only, while the connection takes nothing, for room in the outbox.
func (in *inbound) receive(f frame) error {
	d := decoder{b: f.payload}
	switch f.kind {
	case framePing:
		return in.out.put(framePong, 0, nil)
	case frameOpen:
		ask := d.ask()
		if d.bad {
			return errGarbage
		}
		return in.open(f.number, &ask)
	case frameCall:
		q := d.request()
		if d.bad {
			return errGarbage
		}
		return in.call(f.number, q)
	case frameCancel:
		in.cancel(f.number)
		return nil
	}
	return in.word(f, &d)
}

// word takes a frame of a session. One that is not known was refused, and its edge has not read that yet.
func (in *inbound) word(f frame, d *decoder) error {
	in.mu.Lock()
	s := in.sessions[f.number]
	in.mu.Unlock()
	switch f.kind {
	case frameCredit:
		if n := int(d.int32()); s != nil && n > 0 {
			s.grant(n)
		}
	case frameSeen:
		if n := d.uvarint(); s != nil {
			s.seen.Store(n)
		}
	case frameClose:
		if n := d.uvarint(); s != nil {
			s.seen.Store(n)
			s.closed.Store(true)
			s.cancel()
		}
	case frameSettle:
		call, verbs := d.uint32(), d.verbs()
		if d.bad {
			return errGarbage
		}
		return in.settle(s, call, verbs)
	}
	return d.err()
}

func (in *inbound) open(id uint32, ask *group.Ask) error {
	ctx, cancel := context.WithCancel(in.ctx)
	s := &served{in: in, id: id, cancel: cancel, credit: make(chan int, 1)}
	if ask.First > 0 {
		s.credit <- ask.First
	}
	in.mu.Lock()
	refused := error(nil)
	switch {
	case in.sessions[id] != nil:
		refused = errGarbage
	case len(in.sessions) >= maxSessions:
		refused = errs.Overloaded
	default:
		if refused = in.r.refusal(); refused == nil && in.r.wentAway(ask.Key) {
			refused = group.ErrMoved
		}
		if refused == nil {
			in.sessions[id] = s
		}
	}
	in.mu.Unlock()
	if refused != nil {
		cancel()
		if refused == errGarbage { //nolint:errorlint // set above
			return refused
		}
		return in.out.put(frameEnd, id, func(b []byte) []byte { return appendError(b, refused) })
	}
	in.r.metrics.served.Inc()
	in.wg.Go(func() { s.run(ctx, ask) })
	return nil
}

// settle applies verbs of a session's client.
func (in *inbound) settle(s *served, call uint32, verbs []group.Verb) error {
	var session group.Session
	if s != nil {
		session = s.session()
	}
	var out []error
	if session != nil {
		out = session.Settle(verbs...)
	} else {
		out = fill(make([]error, len(verbs)), fmt.Errorf("the session has ended: %w", errs.Fenced))
	}
	return in.result(call, out)
}

func (in *inbound) result(call uint32, out []error) error {
	return in.out.add(func(b []byte) []byte {
		return appendFrame(b, frameResult, call, func(b []byte) []byte { return appendErrors(b, out) })
	})
}

// call does what is asked of any delivery of a group, which may take its time.
func (in *inbound) call(id uint32, q *request) error {
	if in.calling.Load() >= maxCalls {
		return in.result(id, fill(make([]error, q.size()), fmt.Errorf("%d calls are under way: %w", maxCalls, errs.Overloaded)))
	}
	if refused := in.refuse(q.key); refused != nil {
		return in.result(id, fill(make([]error, q.size()), refused))
	}
	in.calling.Add(1)
	ctx, cancel := context.WithTimeout(in.ctx, min(q.wait, callTime))
	in.mu.Lock()
	in.calls[id] = cancel
	in.mu.Unlock()
	in.wg.Go(func() {
		defer in.calling.Add(-1)
		out := q.do(ctx, in.r.cfg.Hub)
		for i, err := range out {
			out[i] = in.r.told(err)
		}
		in.cancel(id)
		_ = in.result(id, out) // fails where the edge has gone
	})
	return nil
}

// refuse answers why a call about a group is for another gateway: else the group would be joined here for it.
func (in *inbound) refuse(key group.Key) error {
	if in.r.here(key) { // it may be leaving, and takes verbs until its last commit
		return nil
	}
	if err := in.r.refusal(); err != nil {
		return err
	}
	if in.r.wentAway(key) {
		return group.ErrMoved
	}
	return nil
}

func (in *inbound) cancel(call uint32) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if cancel := in.calls[call]; cancel != nil {
		cancel()
		delete(in.calls, call)
	}
}

func fill(out []error, err error) []error {
	for i := range out {
		out[i] = err
	}
	return out
}

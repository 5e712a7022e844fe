package gateway

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/kateway/kateway/internal/edge"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/httpx"
	"github.com/kateway/kateway/plugins"
)

// watched has the plugins that watch see the requests.
func (r *rules) watched(list []plugins.Watcher) *rules {
	r.watchers = list
	return r
}

// watch has them see the requests of a handler.
func (r *rules) watch(h httpx.Handler) httpx.Handler {
	if len(r.watchers) == 0 {
		return h
	}
	return func(w http.ResponseWriter, req *http.Request) error {
		addr := edge.Remote(req.RemoteAddr)
		if !addr.IsValid() || addr.IsLoopback() || r.proxies.Trusts(addr) {
			return h(w, req)
		}
		addr = edge.Network(addr)
		if err := r.arrives(w, addr); err != nil {
			return err
		}
		err := h(w, req)
		for _, p := range r.watchers {
			p.Ended(addr, err)
		}
		return err
	}
}

func (r *rules) arrives(w http.ResponseWriter, addr netip.Addr) error {
	for _, p := range r.watchers {
		if d := p.Arrives(addr); d > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int((d+time.Second-1)/time.Second)))
			w.Header().Set("Connection", "close")
			return fmt.Errorf("too many requests from your address were faulty; stay away for a while: %w", errs.Throttled)
		}
	}
	return nil
}

// bodyGrace is what a body may take beyond the time that its bytes have at the lowest rate.
const bodyGrace = 10 * time.Second

// pace bounds the time for the body: bodyTime in all, and less where its bytes come more slowly than minRate. A read that
// comes later fails. It is not http.Server's ReadTimeout, since that ends streams too.
func (r *rules) pace(w http.ResponseWriter, req *http.Request) error {
	c, start := http.NewResponseController(w), time.Now()
	limit := r.bodyTime
	switch n := req.ContentLength; {
	case r.minRate == 0:
	case n >= 0:
		limit = min(limit, bodyGrace+timeFor(n, r.minRate))
	default:
		limit = min(limit, bodyGrace)
		req.Body = &paced{ReadCloser: req.Body, conn: c, rules: r, start: start, until: limit}
	}
	if err := c.SetReadDeadline(start.Add(limit)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return fmt.Errorf("setting the body's deadline: %w", err)
	}
	return nil
}

// timeFor is how long n bytes take at a rate, bytes a second. No body is so large that it overflows.
func timeFor(n, rate int64) time.Duration {
	return time.Duration(min(n/rate, int64(time.Hour/time.Second))+1) * time.Second
}

// paced is a body of unknown length, which has more time the more of it has come.
type paced struct {
	io.ReadCloser
	conn  *http.ResponseController
	rules *rules
	start time.Time
	until time.Duration // from start
	got   int64
}

func (p *paced) Read(b []byte) (int, error) {
	n, err := p.ReadCloser.Read(b)
	p.got += int64(n)
	if t := min(p.rules.bodyTime, bodyGrace+timeFor(p.got, p.rules.minRate)); t > p.until+time.Second {
		p.until = t
		_ = p.conn.SetReadDeadline(p.start.Add(t)) // the one before holds then
	}
	return n, err
}

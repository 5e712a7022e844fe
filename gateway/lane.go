package gateway

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"net/http"
	"time"

	"github.com/kateway/kateway/broadcast"
	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/httpx"
)

// laneStream is how long a stream or a poll lasts, once it has its group, that comes over the process before this one: that one is to end. Its client
// comes again, over a connection to us.
const laneStream = time.Second

// laneKind is the key of requests from a lane.
type laneKind struct{}

// fromLane reports whether the request is from a lane.
func fromLane(ctx context.Context) bool { return ctx.Value(laneKind{}) != nil }

// fromLane serves what another process passes on, as if it had come here.
func (g *Gateway) fromLane(w http.ResponseWriter, r *http.Request) {
	role, remote := Role(r.Header.Get(headerLane)), r.Header.Get(headerLaneRemote)
	r.Header.Del(headerLane)
	r.Header.Del(headerLaneRemote)
	h := g.Handler(role)
	if h == nil {
		httpx.WriteProblem(w, errs.NotFound) // the role was turned off
		return
	}
	r = r.WithContext(context.WithValue(r.Context(), laneKind{}, true))
	r.RemoteAddr = remote
	r.TLS = tlsFromLane(r.Header.Get(headerLaneTLS))
	r.Header.Del(headerLaneTLS)
	h.ServeHTTP(w, r)
}

// tlsForLane is what anybody asks of a client's encryption: that there is some, and the certificate that was verified.
func tlsForLane(state *tls.ConnectionState) string {
	if len(state.VerifiedChains) == 0 {
		return "1"
	}
	return base64.StdEncoding.EncodeToString(state.VerifiedChains[0][0].Raw)
}

// tlsFromLane is nil in clear text.
func tlsFromLane(s string) *tls.ConnectionState {
	if s == "" {
		return nil
	}
	state := new(tls.ConnectionState)
	if raw, err := base64.StdEncoding.DecodeString(s); err == nil {
		if leaf, err := x509.ParseCertificate(raw); err == nil {
			state.VerifiedChains = [][]*x509.Certificate{{leaf}}
		}
	}
	return state
}

// Handler is what serves a role, nil where it is off.
func (g *Gateway) Handler(role Role) http.Handler {
	for _, s := range g.servers {
		for _, r := range s.roles {
			if r == role {
				return s.http.Handler
			}
		}
	}
	return nil
}

// laneGroups ends sessions of requests from a lane soon.
type laneGroups struct{ group.Opener }

// Open is group.Opener's.
func (l laneGroups) Open(ctx context.Context, ask group.Ask) (group.Session, error) {
	s, err := l.Opener.Open(ctx, ask)
	if err != nil || !fromLane(ctx) {
		return s, err
	}
	return &briefSession{s, time.Now().Add(laneStream)}, nil
}

type briefSession struct {
	group.Session
	end time.Time
}

// Next is group.Session's.
func (b *briefSession) Next(ctx context.Context, max int) (group.Batch, error) {
	if !time.Now().Before(b.end) {
		return group.Batch{}, errs.Draining
	}
	bounded, cancel := context.WithDeadline(ctx, b.end)
	defer cancel()
	batch, err := b.Session.Next(bounded, max)
	if err != nil && bounded.Err() != nil && ctx.Err() == nil {
		err = errs.Draining
	}
	return batch, err
}

// laneReaders ends readers of requests from a lane soon.
type laneReaders struct{ *broadcast.Hub }

// Open is sub.Readers'.
func (l laneReaders) Open(ctx context.Context, ask broadcast.Ask) (*broadcast.Reader, error) {
	r, err := l.Hub.Open(ctx, ask)
	if err == nil && fromLane(ctx) {
		time.AfterFunc(laneStream, r.Drain)
	}
	return r, err
}

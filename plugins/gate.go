package plugins

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/httpx"
	"github.com/kateway/kateway/store"
)

// linger is how long a client whose request was refused may go on sending its body.
const linger = time.Second

// small is how many bytes of a body are read only to find the next request behind it.
const small = 16 << 10

// DefaultApp is who calls without saying so, in open mode.
const DefaultApp = "default"

// Caller is the app that the request says it comes from: its header Appid, or DefaultApp. The name is not checked.
// Kind InvalidParam where the header is given twice.
func Caller(r *http.Request) (string, error) {
	app, err := httpx.Header(r, "Appid")
	if err == nil && app == "" {
		app = DefaultApp
	}
	return app, err
}

// AccessToken is the scheme of the header Authorization under which plugins find what was given as the query's access_token,
// by a client that can set no header.
const AccessToken = "Access-Token"

// TakeToken moves the query's access_token, where there is one and a plugin finds out who calls, into a value of the header
// Authorization: from there on the URL can be told to anybody. It is called before the query is read. A header that is there
// already stays beside it, and makes two of what there must be one of.
func (g *Gate) TakeToken(r *http.Request) {
	if g == nil || !g.identifies || !strings.Contains(r.URL.RawQuery, "access_token=") {
		return
	}
	var rest []string
	for part := range strings.SplitSeq(r.URL.RawQuery, "&") {
		token, ok := strings.CutPrefix(part, "access_token=")
		if !ok {
			rest = append(rest, part)
			continue
		}
		if plain, err := url.QueryUnescape(token); err == nil {
			token = plain
		}
		r.Header["Authorization"] = append(r.Header["Authorization"], AccessToken+" "+token)
	}
	r.URL.RawQuery = strings.Join(rest, "&")
}

// ended is the cause of a context that a plugin has ended.
type ended struct{ error }

func (e ended) Unwrap() error { return e.error }

// End is the cause with which a plugin ends, by the context that it has given on, a call that lasts or waits. The kind of why
// is told to the client.
func End(why error) error { return ended{why} }

// Ended is why a plugin has ended the call; nil where none did.
func Ended(ctx context.Context) error {
	var e ended
	if ctx.Err() != nil && errors.As(context.Cause(ctx), &e) {
		return e.error
	}
	return nil
}

// Identifier is a Plugin that says who calls. With one in the chain Call.App is empty before it, and what the header Appid
// claims counts for nothing by itself.
type Identifier interface {
	Plugin
	// Identifies does nothing: it tells such plugins from others.
	Identifies()
}

// Gate lets the requests of a role through a chain. Its methods may be called concurrently.
type Gate struct {
	chain      Handler
	identifies bool // one of the plugins does
	stays      bool // one of the plugins is no Leaver
	admitters  []Admitter
	inspectors []Inspector
	recorders  []Recorder
}

// NewGate makes the chain. Without plugins it is nil: there is nothing to pass, and a role does its work as if it were not
// there.
func NewGate(list []Plugin) *Gate {
	if len(list) == 0 {
		return nil
	}
	g := &Gate{chain: Chain(list, work)}
	for _, p := range list {
		if _, ok := p.(Identifier); ok {
			g.identifies = true
		}
		if _, ok := p.(Leaver); !ok {
			g.stays = true
		}
		if a, ok := p.(Admitter); ok {
			g.admitters = append(g.admitters, a)
		}
		if i, ok := p.(Inspector); ok {
			g.inspectors = append(g.inspectors, i)
		}
		if r, ok := p.(Recorder); ok {
			g.recorders = append(g.recorders, r)
		}
	}
	return g
}

// Admit asks, for a publish that has passed, whether its messages may be stored. The caller has set c.Messages and c.Bytes.
func (g *Gate) Admit(ctx context.Context, c *Call) error {
	for _, a := range g.admitters {
		if err := a.Admit(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// Published tells what became of messages.
func (g *Gate) Published(ctx context.Context, c *Call, err error, msgs []*store.Message) {
	for _, r := range g.recorders {
		r.Published(ctx, c, err, msgs)
	}
}

// Inspection is what looks at the messages of a call that has passed, in the order of the chain, until one refuses or drops;
// nil where nothing does.
func (g *Gate) Inspection(c *Call) Inspection {
	var list []Inspection
	for _, i := range g.inspectors {
		if f := i.Inspection(c); f != nil {
			list = append(list, f)
		}
	}
	switch len(list) {
	case 0:
		return nil
	case 1:
		return list[0]
	}
	return func(ctx context.Context, m *Message) error {
		for _, f := range list {
			if err := f(ctx, m); err != nil || m.Dropped {
				return err
			}
		}
		return nil
	}
}

// Pass does the work of a request when the chain lets it through, and answers what came of it. The caller has filled in
// what the request wants, and as App what it claims; the rest of the Call is Pass's. In work c.App is who calls.
// A request that is refused has its body left alone, and on HTTP/1 its connection closed, so that nobody has to read
// the body to find the next request. A chain that neither refuses nor comes to its end is a fault of ours: never a success.
func (g *Gate) Pass(w http.ResponseWriter, r *http.Request, c *Call, work func(r *http.Request) error) error {
	c.Remote, c.Header, c.Size = r.RemoteAddr, r.Header, r.ContentLength
	c.RawQuery, c.TLS, c.Answer = r.URL.RawQuery, r.TLS, w.Header()
	c.request, c.work = r, work
	if g.identifies {
		c.App = ""
	}
	ctx := r.Context()
	if c.MayLeave && !g.stays {
		c.life = newLife(r)
		defer c.life.pass()
		ctx = c.life
	}
	err := g.chain(ctx, c)
	switch {
	case c.work == nil && err == nil:
		return c.Result
	case c.work == nil:
		return err
	case err == nil:
		err = fmt.Errorf("the plugin chain ended without a word: %w", errs.Internal)
	}
	if r.ContentLength != 0 && r.ProtoMajor == 1 && !cheap(r, err) {
		hangUp(w)
	}
	return err
}

// cheap reports whether to read the body and keep the connection: who is only too fast comes again, and a new connection
// would cost more than a small body.
func cheap(r *http.Request, err error) bool {
	return r.ContentLength > 0 && r.ContentLength <= small && errors.Is(err, errs.Throttled)
}

// hangUp closes the connection behind the answer. What the client still sends of its body is thrown away for a moment, since
// a connection that is closed with unread bytes takes the answer along.
func hangUp(w http.ResponseWriter) {
	w.Header()["Connection"] = []string{"close"}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(linger)) // fails only where there is no connection
}

// work is the end of every chain.
func work(ctx context.Context, c *Call) error {
	switch {
	case c.work == nil:
		return fmt.Errorf("the plugin chain came to its end twice: %w", errs.Internal)
	case c.App == "":
		return fmt.Errorf("no plugin said who calls: %w", errs.Internal)
	}
	do, r := c.work, c.request
	httpx.SetCaller(r.Context(), c.App)
	c.work = nil
	if c.life != nil {
		c.life.last = ctx
	}
	if ctx != r.Context() {
		r = r.WithContext(ctx)
	}
	c.Result = do(r)
	return c.Result
}

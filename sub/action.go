package sub

import (
	"context"
	"errors"
	"net/http"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/httpx"
	"github.com/kateway/kateway/internal/online"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/plugins"
)

// action is what a request asks for: its head, read before the plugins are asked, and the work, done when they allow it.
// The body, if any, is part of the work.
type action interface {
	// where is the group that it is about.
	where() *place
	// read reads the head but for the names that where().name reads.
	read(r *http.Request) error
	// do does it and answers, as an httpx.Handler.
	do(h *Handler, w http.ResponseWriter, r *http.Request) error
}

// socketAction is an action that may go on when do has returned.
type socketAction interface{ leaves() }

// act serves actions of one kind, which may depend on the request. Its frame stays under every stream, so it does little itself.
func (h *Handler) act(op plugins.Op, lasting bool, fresh func(*http.Request) action) httpx.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		h.gate.TakeToken(r)
		a := fresh(r)
		bad := readHead(a, r)
		if h.gate != nil {
			return h.pass(w, r, op, lasting, a, bad)
		}
		if bad != nil {
			return bad
		}
		return a.do(h, w, r)
	}
}

// readHead reads names, then the rest.
func readHead(a action, r *http.Request) error {
	if err := a.where().name(r); err != nil {
		return err
	}
	return a.read(r)
}

// pass does the work when the plugins allow it, for the app that they say calls. bad is what is wrong with the head. Names
// come before anything else; of the rest only who may do it is told.
func (h *Handler) pass(w http.ResponseWriter, r *http.Request, op plugins.Op, lasting bool, a action, bad error) error {
	p := a.where()
	if errors.Is(bad, errs.InvalidName) || p.app == "" {
		return bad
	}
	_, socket := a.(socketAction)
	c := plugins.Call{Op: op, Lasting: lasting, MayLeave: socket, Waits: p.waits, App: p.app, Owner: p.topic.App, Topic: p.topic.Name, Ver: p.topic.Ver, Group: p.group}
	if bad != nil && c.Group == "" { // nothing will be done, but it decides who is told why
		c.Group = r.URL.Query().Get("group")
	}
	return h.gate.Pass(w, r, &c, func(r *http.Request) error {
		if bad != nil {
			return bad
		}
		p.app, p.inspect, p.leave = c.App, h.gate.Inspection(&c), c.Leave
		return a.do(h, w, r)
	})
}

// told is what a client that is served is told in words, as the code of the end: its topic is gone, or a plugin says that it
// may read no longer. 0: neither.
func told(ctx context.Context, err error) (code errs.Kind) {
	if why := plugins.Ended(ctx); why != nil {
		return errs.Of(why)
	}
	if errors.Is(err, errs.UnknownTopic) {
		return errs.UnknownTopic
	}
	return 0
}

// place names a group on a topic as the client named them.
type place struct {
	topic meta.Topic
	app   string // who calls
	group string
	queue meta.Queue // of the group's, instead of the topic; "": the topic

	waits   bool               // it is a poll that may wait
	inspect plugins.Inspection // of what is delivered; nil: nothing is looked at
	// leave is plugins.Call.Leave; nil without plugins: nobody waits for the end.
	leave func() (ctx context.Context, over func(error), ok bool)
}

func (p *place) where() *place { return p }

// use says that the client is here and subscribes, until the use is done.
func (p *place) use(ctx context.Context, kind string) *online.Use {
	return online.Of(ctx).Subscribed(kind, p.app, p.topic.App, p.topic.Name, p.topic.Ver, p.group)
}

// name reads the topic from the path and from the headers who the caller says to be, and checks both.
func (p *place) name(r *http.Request) error {
	var err error
	if p.topic, err = meta.ParseTopic(httpx.Param(r, "app"), httpx.Param(r, "topic"), httpx.Param(r, "ver")); err != nil {
		return err
	}
	if p.app, err = plugins.Caller(r); err != nil {
		return err
	}
	return meta.CheckApp(p.app)
}

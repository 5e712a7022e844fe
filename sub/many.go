package sub

import (
	"context"
	"fmt"
	"net/http"
	"slices"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/httpx"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/plugins"
)

// maxTopics is how many topics one stream reads at most.
const maxTopics = 100

// Flow is where the deliveries of a stream come from: one session, or several.
type Flow interface {
	// Next is group.Session's, and says from which of the sources the batch is.
	Next(ctx context.Context, most int) (from int, b group.Batch, err error)
	// Settle is that of the source's session.
	Settle(from int, verbs ...group.Verb) []error
	Close()
}

// single is the flow of one session.
type single struct{ group.Session }

func (s single) Next(ctx context.Context, most int) (int, group.Batch, error) {
	b, err := s.Session.Next(ctx, most)
	return 0, b, err
}

func (s single) Settle(_ int, verbs ...group.Verb) []error { return s.Session.Settle(verbs...) }

// manyWish is what a client wants of GET /v1/stream?topic=...: a stream of several topics, read by one group of each.
type manyWish struct {
	streamWish
	topics []meta.Topic
}

// many serves GET /v1/stream.
func (h *Handler) many(w http.ResponseWriter, r *http.Request) error {
	h.gate.TakeToken(r)
	wish := new(manyWish)
	if err := wish.names(r); err != nil {
		return err
	}
	return wish.pass(h, w, r, 0)
}

// names reads the topics and the group, and from the headers who the caller says to be: what the plugins are asked about.
func (w *manyWish) names(r *http.Request) (err error) {
	q := r.URL.Query() // what else is wrong with it is told to those who may read
	list := q["topic"]
	if len(list) > maxTopics {
		return fmt.Errorf("%d topics are given, at most %d: %w", len(list), maxTopics, errs.InvalidParam)
	}
	for _, name := range list {
		t, err := meta.SplitTopic(name)
		if err != nil {
			return err
		}
		if slices.Contains(w.topics, t) {
			return fmt.Errorf("topic %s is given twice: %w", t, errs.InvalidParam)
		}
		w.topics = append(w.topics, t)
	}
	if w.group = q.Get("group"); w.group != "" {
		if err := meta.CheckGroup(w.group); err != nil {
			return err
		}
	}
	if w.app, err = plugins.Caller(r); err != nil {
		return err
	}
	return meta.CheckApp(w.app)
}

// pass asks the plugins about the topic with the index and those behind it, and serves the stream when all may be read.
func (w *manyWish) pass(h *Handler, rw http.ResponseWriter, r *http.Request, i int) error {
	t := meta.Topic{App: w.app} // of a request that names none, and is told so when it is known who sent it
	switch {
	case h.gate == nil, i > 0 && i >= len(w.topics):
		return w.do(h, rw, r)
	case i < len(w.topics):
		t = w.topics[i]
	}
	c := plugins.Call{Op: plugins.Subscribe, Lasting: true, App: w.app, Owner: t.App, Topic: t.Name, Ver: t.Ver, Group: w.group}
	return h.gate.Pass(rw, r, &c, func(r *http.Request) error {
		w.app = c.App
		w.inspects = append(w.inspects, h.gate.Inspection(&c))
		return w.pass(h, rw, r, i+1)
	})
}

// do reads the rest, which only those are told of who may read, and serves.
func (w *manyWish) do(h *Handler, rw http.ResponseWriter, r *http.Request) error {
	q, err := httpx.ParseQueryLists(r, []string{"topic"}, append([]string{"prefetch", "limit"}, wishParams[:]...)...)
	if err != nil {
		return err
	}
	if err := w.parse(r, q); err != nil {
		return err
	}
	if w.form, err = chooseStreamForm(&w.wish); err != nil {
		return err
	}
	if len(w.topics) == 0 {
		return fmt.Errorf("topic is required: add ?topic=<app>/<topic>/<version>, up to %d times: %w", maxTopics, errs.InvalidParam)
	}
	w.topic = w.topics[0]
	return w.serve(h, rw, r, w.topics)
}

// openAll makes the request a client of its group on each topic.
func (h *Handler) openAll(ctx context.Context, wish *streamWish, s *stream, topics []meta.Topic) (Flow, error) {
	// What the client may hold is shared out, so that it is as much as it has asked for.
	share := max(s.most/len(topics), 1)
	var sessions []group.Session
	for i, t := range topics {
		one := wish.wish
		one.topic = t
		if len(wish.inspects) > 0 {
			one.inspect = wish.inspects[i]
		}
		session, src, err := h.openSource(ctx, &one, share, s.stays)
		if err != nil {
			for _, open := range sessions {
				open.Close()
			}
			return nil, err
		}
		if len(topics) > 1 {
			src.enc.topic = t.String()
		}
		src.use = one.use(ctx, s.form.kind())
		sessions, s.sources = append(sessions, session), append(s.sources, src)
	}
	if len(sessions) == 1 {
		return single{sessions[0]}, nil
	}
	return h.merge(sessions...), nil
}

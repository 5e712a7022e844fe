package gateway

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/manager"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/pub"
	"github.com/kateway/kateway/store"
	"github.com/kateway/kateway/store/spool"
)

// findPatience is how long a publish in open mode waits for the store to know its topic, where it can be spooled instead.
const findPatience = 3 * time.Second

// exclusions are the places of topics that are not to be spooled.
type exclusions = atomic.Pointer[map[string]bool]

// openSpool opens what stands between publishers and Kafka. The embedded store needs none: it is on the same disk, and keeps
// idempotency keys itself.
func (g *Gateway) openSpool() (err error) {
	if g.cfg.StoreKind() == "embedded" {
		return nil
	}
	c := spool.Config{
		Dir: filepath.Join(g.cfg.Data, "spool"), Next: g.toStore, Drain: g.store, Reader: g.store, Partitions: g.store.Partitions, Excluded: g.notSpooled,
		Off: g.cfg.Spool == off, MaxBytes: int64(g.cfg.SpoolMaxBytes), MaxAge: g.cfg.SpoolMaxAge, Log: g.log, Metrics: g.metrics,
	}
	if g.cfg.Open() {
		c.Make = func(ctx context.Context, topic string) error {
			t := topicTemplate(&g.cfg)
			t.Name = topic
			if err := g.store.CreateTopic(ctx, t); err != nil && !errors.Is(err, store.ErrExists) {
				return err
			}
			return nil
		}
	}
	s, err := spool.Open(c)
	if err != nil {
		return err
	}
	g.spool, g.toStore = s, s
	return nil
}

// spools reports whether messages may be spooled.
func (g *Gateway) spools() bool { return g.spool != nil && g.cfg.Spool != off }

// closeSpool comes after the publishers and before the store.
func (g *Gateway) closeSpool(ctx context.Context) error {
	if g.spool == nil {
		return nil
	}
	return g.spool.Close(ctx)
}

// notSpooled reports a topic whose record says so.
func (g *Gateway) notSpooled(place string) bool {
	list := g.unspooled.Load()
	return list != nil && (*list)[place]
}

// followSpool keeps up with the topics' setting, until ctx ends.
func (g *Gateway) followSpool(ctx context.Context) {
	for {
		changed := g.cluster.meta.Changed()
		list := map[string]bool{}
		snapshot := g.cluster.meta.Snapshot()
		for after, more := "", true; more; {
			page := snapshot.List(meta.KindTopic, after, maxWarned)
			for _, r := range page {
				if t, ok := r.(*meta.TopicRecord); ok && !t.Spool {
					list[t.Place()] = true
				}
				after = r.ID().Name
			}
			more = len(page) == maxWarned
		}
		g.unspooled.Store(&list)
		select {
		case <-changed:
			wait(ctx, time.Second) // many topics may change, one by one
		case <-ctx.Done():
			return
		}
	}
}

// spoolTopics finds topics also while the store can't be asked for them: in open mode any topic may be used, and one that turns
// out not to be there is made when it is drained.
type spoolTopics struct {
	*meta.Topics
	spool *spool.Spool
}

// publishTopics is where publishers find topics.
func (g *Gateway) publishTopics(topics *meta.Topics) pub.Topics {
	if !g.cfg.Open() || !g.spools() {
		return topics
	}
	return spoolTopics{topics, g.spool}
}

// Use is pub.Topics'.
func (s spoolTopics) Use(ctx context.Context, t meta.Topic) (string, error) {
	name := t.Store()
	if s.spool.Holds(name) {
		return name, nil
	}
	short, cancel := context.WithTimeout(ctx, findPatience)
	defer cancel()
	place, err := s.Topics.Use(short, t)
	if kind := errs.Of(err); err != nil && (kind == errs.Unavailable || kind == errs.Uncertain) && s.Loaded() {
		return name, nil
	}
	return place, err
}

// spoolPart says whether a publish can be accepted while the store is down.
func (g *Gateway) spoolPart(st *part) *part {
	return &part{name: "spool", roles: []Role{Pub}, probe: func(context.Context) error {
		s := g.spool.SpoolStatus()
		switch {
		case s.Fault == nil && s.Late:
			return errPartly(fmt.Sprintf("messages wait since %s; nothing is dropped", s.Oldest.UTC().Format(time.RFC3339)))
		case s.Fault == nil && s.Aside > 0:
			return errPartly(fmt.Sprintf("%d messages were refused by the store and set aside; see gk spool", s.Aside))
		case s.Fault == nil:
			return nil
		case st.verdict() == down:
			return s.Fault
		}
		return errPartly("publishes could not be accepted if the store went away: " + errs.Of(s.Fault).Title())
	}}
}

// spoolStatus is the spool in a few words.
func (g *Gateway) spoolStatus() manager.SpoolState {
	if g.spool == nil {
		return manager.SpoolState{State: off}
	}
	return manager.SpoolStateOf(g.spool.SpoolStatus())
}

// spooler is nil where there is no spool.
func (g *Gateway) spooler() store.Spooler {
	if g.spool == nil {
		return nil
	}
	return g.spool
}

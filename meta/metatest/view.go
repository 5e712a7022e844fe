package metatest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/kateway/kateway/meta"
)

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	t.Cleanup(cancel)
	return ctx
}

func app(name string) meta.ID { return meta.ID{Kind: meta.KindApp, Name: name} }

func object(n int) []byte { return fmt.Appendf(nil, `{"n":%d}`, n) }

func apply(t *testing.T, s meta.Source, id meta.ID, match string, data []byte) uint64 {
	t.Helper()
	at, err := s.Apply(deadline(t), meta.Change{ID: id, Match: match, Data: data})
	if err != nil {
		t.Fatalf("%s: %v", id, err)
	}
	return at
}

func refused(t *testing.T, s meta.Source, id meta.ID, match string, data []byte, kind error) {
	t.Helper()
	if _, err := s.Apply(deadline(t), meta.Change{ID: id, Match: match, Data: data}); !errors.Is(err, kind) {
		t.Errorf("%s with match %q: %v; want %v", id, match, err, kind)
	}
}

// view follows a source as a directory does, and keeps what it was told.
type view struct {
	cancel context.CancelFunc
	ended  chan struct{}

	mu      sync.Mutex
	objects map[meta.ID]string
	faults  map[string]error
	through uint64
	updates int
	failed  error // of the newest Next; nil after an Update
	err     error // that ended it
	news    chan struct{}
}

func open(t *testing.T, b Backend) (meta.Source, *view) {
	t.Helper()
	s := b.Open(t)
	v := follow(t, s)
	t.Cleanup(func() {
		v.stop()
		if err := s.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	return s, v
}

func follow(t *testing.T, s meta.Source) *view {
	ctx, cancel := context.WithCancel(t.Context())
	v := &view{cancel: cancel, ended: make(chan struct{}), objects: map[meta.ID]string{}, news: make(chan struct{})}
	go v.run(ctx, s)
	return v
}

func (v *view) run(ctx context.Context, s meta.Source) {
	defer close(v.ended)
	for {
		u, err := s.Next(ctx)
		if ctx.Err() != nil {
			v.mu.Lock()
			v.err = err
			v.mu.Unlock()
			return
		}
		v.take(u, err)
	}
}

func (v *view) take(u meta.Update, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.failed = err
	if err == nil {
		v.updates++
		if u.Whole {
			v.objects = map[meta.ID]string{}
		}
		for id, data := range u.Objects {
			if data == nil {
				delete(v.objects, id)
			} else {
				v.objects[id] = string(data)
			}
		}
		v.faults, v.through = u.Faults, max(v.through, u.Through)
	}
	close(v.news)
	v.news = make(chan struct{})
}

func (v *view) stop() {
	v.cancel()
	<-v.ended
}

// until waits for the condition. It is asked under the lock.
func (v *view) until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	ctx := deadline(t)
	for {
		v.mu.Lock()
		ok, news := condition(), v.news
		state := fmt.Sprintf("objects %.400q, faults %v, through %d, error %v", fmt.Sprint(v.objects), v.faults, v.through, v.failed)
		v.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-news:
		case <-ctx.Done():
			t.Fatalf("waiting for %s: there is %s", what, state)
		}
	}
}

func (v *view) untilHas(t *testing.T, id meta.ID, data []byte) {
	t.Helper()
	v.until(t, fmt.Sprintf("%s = %.100s", id, data), func() bool {
		got, ok := v.objects[id]
		return ok == (data != nil) && got == string(data)
	})
}

func (v *view) untilThrough(t *testing.T, at uint64) {
	t.Helper()
	v.until(t, fmt.Sprintf("through %d", at), func() bool { return v.through >= at })
}

// Directory follows the source until the test ends, and closes it.
func Directory(t testing.TB, s meta.Source) *meta.Directory {
	d := meta.NewDirectory(meta.Config{Source: s, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = d.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		_ = s.Close()
	})
	select {
	case <-d.Loaded():
	case <-time.After(soon):
		t.Fatal("the source tells nothing")
	}
	return d
}

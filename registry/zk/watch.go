package zk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/registry"
)

// Watch implements [registry.Registry]. What others tell of themselves is looked at every 5 s, the list when it changes.
func (r *Registry) Watch(ctx context.Context) <-chan []registry.Instance {
	out := make(chan []registry.Instance, 1) // this goroutine alone sends: it takes out what was not fetched, and puts in the newest
	go func() {
		defer close(out)
		w := watcher{Registry: r, bad: map[string]bool{}}
		told := false
		var last []registry.Instance
		for ctx.Err() == nil {
			list, changed, err := w.read(ctx)
			if err != nil {
				w.complain(ctx, err)
				w.away(ctx)
				continue
			}
			w.last = nil
			if !told || !slices.Equal(last, list) {
				select {
				case <-out:
				default:
				}
				out <- slices.Clone(list)
				told, last = true, list
			}
			next := time.NewTimer(refresh)
			select {
			case <-changed:
			case <-next.C:
			case <-ctx.Done():
			}
			next.Stop()
		}
	}()
	return out
}

type watcher struct {
	*Registry
	bad  map[string]bool // nodes that were complained of
	last error
}

// read answers who is listed, sorted by id, and what tells when somebody comes or goes.
func (w *watcher) read(ctx context.Context) ([]registry.Instance, <-chan struct{}, error) {
	ids, changed, err := w.zk.WatchChildren(ctx, gateways)
	if errors.Is(err, errs.NotFound) {
		return nil, changed, nil // nobody was ever here
	}
	if err != nil {
		return nil, nil, err
	}
	list := make([]registry.Instance, 0, len(ids))
	bad := map[string]bool{}
	for _, id := range ids {
		is, err := w.instance(ctx, id)
		switch {
		case errors.Is(err, errs.NotFound): // gone since
		case errors.Is(err, errs.Internal), errors.Is(err, errs.Denied):
			bad[id] = true
			if !w.bad[id] {
				w.log.Warn("a node of the registry can't be read, its gateway is left out", "path", gateways+"/"+id, "error", err)
			}
		case err != nil:
			return nil, nil, err
		default:
			list = append(list, is)
		}
	}
	w.bad = bad
	return list, changed, nil
}

// instance reads one node; Internal: it is not what a gateway writes.
func (w *watcher) instance(ctx context.Context, id string) (is registry.Instance, err error) {
	data, _, err := w.zk.Get(ctx, gateways+"/"+id)
	if err != nil {
		return is, err
	}
	if err := json.Unmarshal(data, &is); err != nil {
		return is, fmt.Errorf("no JSON of an instance: %w: %w", errs.Internal, err)
	}
	if is.ID != id {
		return is, fmt.Errorf("it tells of %q: %w", is.ID, errs.Internal)
	}
	is.Started = is.Started.UTC() // so that equal ones compare equal
	return is, nil
}

func (w *watcher) complain(ctx context.Context, err error) {
	if w.last == nil && ctx.Err() == nil && !errors.Is(err, errs.Unavailable) { // the client tells when ZooKeeper is away
		w.log.Error("the list of gateways can't be read, trying on", "error", err)
		w.last = err
	}
}

// away waits until a new attempt is worth it.
func (w *watcher) away(ctx context.Context) {
	if _, _, err := w.connected(ctx); err == nil {
		pause(ctx, retry)
	}
}

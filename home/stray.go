package home

import (
	"context"
	"time"

	"github.com/kateway/kateway/group"
)

// strayTime is how long a group stays that has no client here and its home elsewhere.
const strayTime = 2 * time.Second

// stray is told of each client that a group here has lost. Where the home is another gateway, as far as we know, the group
// came to be here because somebody saw it differently, or the home could not be reached; when nobody comes for a while we
// leave, so that our partitions do not wait for readers who are at the home.
func (r *Router) stray(key group.Key) {
	if r.view.among(key, r.spread(key)) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	if len(r.strays) == 0 {
		r.wg.Go(r.sweep)
	}
	r.strays[key] = time.Now()
}

// sweep looks after strays until there are none.
func (r *Router) sweep() {
	for sleep(r.ctx, strayTime/4) == nil {
		due, left := r.dueStrays()
		for _, key := range due {
			if info, here := r.cfg.Hub.Info(key); here && info.Clients == 0 && r.elsewhere(key) {
				r.evict(key)
			}
		}
		if left == 0 {
			return
		}
	}
}

// elsewhere reports whether the group's home is another gateway, which can be reached: it may have gone, and we have not believed it yet.
func (r *Router) elsewhere(key group.Key) bool {
	for !r.view.among(key, r.spread(key)) {
		id := r.Home(key)
		if id == r.cfg.Self {
			return true // it has several
		}
		ctx, cancel := context.WithTimeout(r.ctx, answerTime)
		_, err := r.link(ctx, id)
		cancel()
		if err == nil || r.ctx.Err() != nil {
			return err == nil
		}
		r.miss(id)
	}
	return false
}

// dueStrays takes those out that nobody came to for a while, and answers how many are left. With none the sweep ends.
func (r *Router) dueStrays() (due []group.Key, left int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, since := range r.strays {
		if time.Since(since) >= strayTime {
			due = append(due, key)
			delete(r.strays, key)
		}
	}
	return due, len(r.strays)
}

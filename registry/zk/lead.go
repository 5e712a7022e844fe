package zk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"time"

	"github.com/kateway/kateway/internal/errs"
)

// Why one holder ends before the next begins. The servers' leader ends a session when its timeout T has passed since it
// heard of it. A server passes on who called every half tick, that is every T/4 or oftener, and we call every T/6. So when
// a write of ours that began at S was taken by most servers, which a leader that was cut off can't pretend, the session
// lives until S + T*3/4 at least, and we end our duty at S + T/2 where no later write was taken.
const (
	holdShare  = 2 // a hold is valid for T/2
	renewShare = 6 // and renewed every T/6
)

// Lead implements [registry.Registry]. The epoch is the number of the change in ZooKeeper that made us a candidate: it
// grows with each candidate, and they come to power in that order.
func (r *Registry) Lead(ctx context.Context, duty string, do func(ctx context.Context, epoch int64) error) error {
	if duty == "" || strings.ContainsAny(duty, "/.") {
		return fmt.Errorf("duty %q: %w", duty, errs.InvalidName)
	}
	c := candidate{Registry: r, duty: leaders + "/" + duty}
	for {
		if _, _, err := r.connected(ctx); err != nil {
			return err
		}
		done, err := c.run(ctx, do)
		switch {
		case done:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && !errors.Is(err, errs.Unavailable) && !errors.Is(err, errs.NotFound) && !c.told:
			r.log.Error("can't be a candidate for a duty, trying on", "duty", duty, "error", err)
			c.told = true
		}
		if err != nil {
			pause(ctx, retry)
		}
	}
}

// candidate is one Lead.
type candidate struct {
	*Registry
	duty string // the path
	told bool   // of an error
}

// run is one time as a candidate, in one session: done is false when it did not come to do.
func (c *candidate) run(ctx context.Context, do func(context.Context, int64) error) (done bool, err error) {
	host, _ := os.Hostname() // for people who look; nothing depends on it
	who, err := json.Marshal(map[string]any{"host": host, "pid": os.Getpid()})
	if err != nil {
		return false, err
	}
	node, err := c.zk.CreateSequence(ctx, c.duty+"/", who)
	if err != nil {
		return false, err
	}
	defer c.remove(ctx, node)
	is, err := c.zk.Stat(ctx, node)
	if err != nil {
		return false, err
	}
	state, _ := c.zk.State()
	if state.Session != is.Owner {
		return false, nil
	}
	if err := c.first(ctx, node); err != nil {
		return false, err
	}
	mine, lost := context.WithCancelCause(ctx)
	defer lost(nil)
	h := hold{Registry: c.Registry, node: node, who: who, valid: state.Timeout / holdShare, lost: lost}
	h.end = time.AfterFunc(h.valid, func() {
		lost(fmt.Errorf("no hold on %s: ZooKeeper took no write for %v: %w", c.duty, h.valid, errs.Unavailable))
	})
	defer h.end.Stop()
	if err := h.renew(mine); err != nil || mine.Err() != nil {
		return false, err
	}
	kept := make(chan struct{})
	go func() {
		defer close(kept)
		h.keep(mine, state.Timeout/renewShare)
	}()
	defer func() { lost(nil); <-kept }()
	return true, do(mine, is.Created)
}

// first waits until no candidate is before us. Each waits for the one right before it, so that one who goes wakes one.
func (c *candidate) first(ctx context.Context, node string) error {
	for {
		names, err := c.zk.Children(ctx, c.duty)
		if err != nil {
			return err
		}
		before, there := "", false
		for _, name := range names {
			there = there || name == path.Base(node)
			if seq(name) < seq(node) && seq(name) > seq(before) {
				before = name
			}
		}
		switch {
		case !there:
			return fmt.Errorf("candidate %s: %w", node, errs.NotFound)
		case before == "":
			return nil
		}
		_, _, changed, err := c.zk.Watch(ctx, c.duty+"/"+before)
		if errors.Is(err, errs.NotFound) {
			continue
		}
		if err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// seq is the number at the end of a sequence node's name, as text: all have ten digits. "" where there is none.
func seq(name string) string {
	const digits = 10
	return name[max(0, len(name)-digits):]
}

// hold is a duty that we have.
type hold struct {
	*Registry
	node  string
	who   []byte
	valid time.Duration
	end   *time.Timer // ends the duty; each renewal moves it
	lost  context.CancelCauseFunc
}

// keep renews the hold until ctx ends.
func (h *hold) keep(ctx context.Context, every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if err := h.renew(ctx); errors.Is(err, errs.NotFound) {
			h.lost(fmt.Errorf("our candidature is gone: %w", err))
		} // others: the timer ends it, if it stays so
	}
}

// renew writes our node. The hold is counted from before the write.
func (h *hold) renew(ctx context.Context) error {
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, h.valid)
	defer cancel()
	if _, err := h.zk.Set(ctx, h.node, h.who, -1); err != nil {
		return err
	}
	if h.end.Stop() { // it has not ended the duty
		h.end.Reset(time.Until(start.Add(h.valid)))
	}
	return nil
}

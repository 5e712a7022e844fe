package zk

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/zk"
	"github.com/kateway/kateway/registry"
)

// announcement is one Announce.
type announcement struct {
	*Registry
	path string
	self func() registry.Instance
	ours []int64 // sessions that we were listed in, the newest last: a node of an older one is no other gateway's
	last error   // told to the log
}

// Announce implements [registry.Registry].
func (r *Registry) Announce(ctx context.Context, self func() registry.Instance) error {
	a := announcement{Registry: r, path: gateways + "/" + self().ID, self: self}
	defer func() {
		if len(a.ours) > 0 && !errors.Is(context.Cause(ctx), registry.ErrKeep) {
			r.remove(ctx, a.path)
		}
	}()
	for {
		s, changed, err := r.connected(ctx)
		if err != nil {
			return nil // ctx has ended, and that is no error here
		}
		err = a.list(ctx, s)
		if err == nil {
			a.last = nil
			err = a.stay(ctx, s, changed)
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, errs.Conflict):
			return err
		case err != nil:
			a.complain(err)
			pause(ctx, retry)
		}
	}
}

// complain logs an error once, until we are listed.
func (a *announcement) complain(err error) {
	if a.last == nil && !errors.Is(err, errs.Unavailable) { // the client tells when ZooKeeper is away
		a.log.Error("can't be listed in the registry, trying on", "path", a.path, "error", err)
		a.last = err
	}
}

// list makes our node, or makes sure that the one that is there is ours.
func (a *announcement) list(ctx context.Context, s zk.State) error {
	text, err := json.Marshal(a.self())
	if err != nil {
		return err
	}
	a.note(s.Session)
	for {
		if err := a.zk.CreateEphemeral(ctx, a.path, text); !errors.Is(err, errs.Conflict) {
			return err
		}
		owner, err := a.zk.Owner(ctx, a.path)
		switch {
		case errors.Is(err, errs.NotFound): // it went just now
			continue
		case err != nil:
			return err
		case owner == s.Session: // made by a call whose answer was lost
			_, err = a.zk.Set(ctx, a.path, text, -1)
			return err
		case slices.Contains(a.ours, owner):
			err = a.zk.Delete(ctx, a.path, -1)
		case a.heir && len(a.ours) == 1: // the first time: it is our predecessor's
			return a.zk.ReplaceEphemeral(ctx, a.path, text)
		default:
			err = a.outlive(ctx, s.Timeout)
		}
		if err != nil && !errors.Is(err, errs.NotFound) {
			return err
		}
	}
}

// note keeps the sessions of late; older ones have no nodes any more.
func (a *announcement) note(session int64) {
	if len(a.ours) > 0 && a.ours[len(a.ours)-1] == session {
		return
	}
	a.ours = append(a.ours, session)
	if len(a.ours) > 8 {
		a.ours = a.ours[1:]
	}
}

// outlive waits until the node that is there goes. It does where it was left by a gateway that died, ourselves before a
// restart perhaps. One that stays longer than its session could without a gateway, or is written to, lives: Conflict.
func (a *announcement) outlive(ctx context.Context, session time.Duration) error {
	conflict := fmt.Errorf("another live gateway has the id %s: give this one an id of its own: %w", a.self().ID, errs.Conflict)
	limit := time.NewTimer(session*3/2 + time.Second) // servers round the end of a session up
	defer limit.Stop()
	_, was, err := a.zk.Get(ctx, a.path)
	if err != nil {
		return err
	}
	for {
		_, version, changed, err := a.zk.Watch(ctx, a.path)
		if err != nil {
			return err // NotFound: it has gone
		}
		if version > was {
			return conflict
		}
		select {
		case <-changed:
		case <-limit.C:
			return conflict
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// stay keeps us listed until the session ends or our node is gone; the caller lists us again then.
func (a *announcement) stay(ctx context.Context, s zk.State, changed <-chan struct{}) error {
	ticker := time.NewTicker(refresh)
	defer ticker.Stop()
	for {
		owner, touched, err := a.look(ctx)
		if err != nil || owner != s.Session {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
			var now zk.State
			if now, changed, err = a.connected(ctx); err != nil || now.Session != s.Session {
				return err
			}
		case <-touched:
		case <-ticker.C:
			if err := a.refresh(ctx); err != nil {
				return err
			}
		}
	}
}

// look answers whose our node is, and what tells when it is touched. A node that is missing is nobody's.
func (a *announcement) look(ctx context.Context) (owner int64, touched <-chan struct{}, err error) {
	if _, _, touched, err = a.zk.Watch(ctx, a.path); err == nil {
		owner, err = a.zk.Owner(ctx, a.path)
	}
	if errors.Is(err, errs.NotFound) {
		return 0, touched, nil
	}
	return owner, touched, err
}

// refresh writes what has changed in what we tell.
func (a *announcement) refresh(ctx context.Context) error {
	text, err := json.Marshal(a.self())
	if err != nil {
		return err
	}
	present, version, err := a.zk.Get(ctx, a.path)
	if err == nil && !bytes.Equal(present, text) {
		_, err = a.zk.Set(ctx, a.path, text, version)
	}
	if errors.Is(err, errs.NotFound) || errors.Is(err, errs.PreconditionFailed) {
		return nil // somebody else's doing: stay looks again
	}
	return err
}

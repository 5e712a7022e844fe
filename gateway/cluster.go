package gateway

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/zk"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/meta/file"
	metazk "github.com/kateway/kateway/meta/zk"
	"github.com/kateway/kateway/peer"
	"github.com/kateway/kateway/registry"
	"github.com/kateway/kateway/registry/mem"
	registryzk "github.com/kateway/kateway/registry/zk"
)

const (
	zkChroot     = "/kateway"          // where --zk names no path
	metaPatience = 3 * time.Second     // how long a start waits for what is known of tenants; one that comes later is used from then on
	secretLife   = 30 * 24 * time.Hour // after which the secret that gateways know each other by is replaced
)

// cluster is what makes this gateway one of several: what is known of tenants, who else lives, and how to reach them. A
// gateway alone has the same of everything, with files in place of ZooKeeper.
type cluster struct {
	log      *slog.Logger
	session  *zk.Client // nil without --zk
	source   meta.Source
	meta     *meta.Directory
	registry registry.Registry
	pool     *peer.Pool
	live     atomic.Pointer[[]registry.Instance]
	anew     atomic.Pointer[time.Time] // when ZooKeeper was last reached again
	first    sync.Once
	known    chan struct{} // closed when there is a list of gateways that has us
}

// openCluster opens what needs no waiting; run does the rest.
func openCluster(g *Gateway) (*cluster, error) {
	c := &cluster{log: g.log, known: make(chan struct{})}
	c.live.Store(&[]registry.Instance{})
	keep := ""
	if g.cfg.ZK == "" {
		dir := filepath.Join(g.cfg.Data, "meta")
		files, err := file.Open(dir, g.log)
		if err != nil {
			return nil, err
		}
		c.source, c.registry = files, mem.New()
	} else {
		var err error
		if c.session, err = openZooKeeper(&g.cfg, g.log); err != nil {
			return nil, err
		}
		r := registryzk.New(c.session, g.log)
		if g.deps.Successor {
			r.TakeOver()
		}
		c.source, c.registry = metazk.New(c.session, g.log), r
		keep = filepath.Join(g.cfg.Data, "meta-snapshot.json")
	}
	c.meta = meta.NewDirectory(meta.Config{Source: c.source, Keep: keep, Log: g.log, Metrics: g.metrics})
	return c, nil
}

func openZooKeeper(c *Config, log *slog.Logger) (*zk.Client, error) {
	servers, chroot, err := zk.ParseServers(c.ZK)
	if err != nil {
		return nil, err
	}
	if chroot == "" || chroot == "/" {
		chroot = zkChroot
	}
	secured, err := zooKeeperTLS(c, log)
	if err != nil {
		return nil, err
	}
	credentials := ""
	if c.ZKAuthFile != "" {
		b, err := os.ReadFile(c.ZKAuthFile)
		if err != nil {
			return nil, fmt.Errorf("credentials for ZooKeeper: %w", err)
		}
		credentials = strings.TrimSpace(string(b))
	}
	return zk.Open(zk.Config{Servers: servers, Chroot: chroot, Credentials: credentials, TLS: secured, Log: log})
}

// follow keeps meta up to date until ctx ends.
func (c *cluster) follow(ctx context.Context, wg *sync.WaitGroup) {
	wg.Go(func() {
		if err := c.meta.Run(ctx); err != nil && ctx.Err() == nil {
			c.log.Error("following meta", "error", err)
		}
	})
}

// loaded waits until something is known of tenants, for a while.
func (c *cluster) loaded(ctx context.Context) {
	t := time.NewTimer(metaPatience)
	defer t.Stop()
	select {
	case <-c.meta.Loaded():
	case <-ctx.Done():
	case <-t.C:
		c.log.Error("nothing is known of apps and topics yet: not ready until ZooKeeper answers; looking on")
	}
}

// reconnected is when the registry was last reached again, or for the first time; zero where there is none.
func (c *cluster) reconnected() time.Time {
	if t := c.anew.Load(); t != nil {
		return *t
	}
	return time.Time{}
}

// watchSession notes when ZooKeeper is reached again, until ctx ends.
func (c *cluster) watchSession(ctx context.Context) {
	for connected := false; ; {
		s, changed := c.session.State()
		if s.Connected && !connected {
			now := time.Now()
			c.anew.Store(&now)
		}
		connected = s.Connected
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// join lists this gateway among the others and tells follow of them, until ctx ends; then it is off the list.
func (c *cluster) join(ctx context.Context, wg *sync.WaitGroup, self func() registry.Instance, follow func([]registry.Instance)) {
	if c.session != nil {
		wg.Go(func() { c.watchSession(ctx) })
	}
	wg.Go(func() {
		for ctx.Err() == nil {
			err := c.registry.Announce(ctx, self)
			if err != nil && ctx.Err() == nil {
				c.log.Error("can't be listed among the gateways; trying again", "id", self().ID, "error", err)
				wait(ctx, 5*time.Second)
			}
		}
	})
	wg.Go(func() {
		for list := range c.registry.Watch(ctx) {
			c.live.Store(&list)
			if c.pool != nil {
				c.pool.Update(list)
			}
			follow(list)
			if slices.ContainsFunc(list, func(i registry.Instance) bool { return i.ID == self().ID && i.Started.Equal(self().Started) }) {
				c.first.Do(func() { close(c.known) })
			}
		}
	})
}

// listKnown waits a moment for a list of gateways that has us. Until there is a list every group looks like one of ours; and the
// place that we take over goes with the session of who had it before.
func (c *cluster) listKnown(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	select {
	case <-c.known:
	case <-ctx.Done():
	}
}

// gateways are those that live.
func (c *cluster) gateways() []registry.Instance { return *c.live.Load() }

// peers are the other gateways.
func (c *cluster) peers() []peer.Member {
	if c.pool == nil {
		return nil
	}
	return c.pool.Members()
}

// release gives up what only one process may have. What is known of tenants stays known.
func (c *cluster) release() error {
	if c.session != nil {
		return nil
	}
	return c.source.Close()
}

// close ends what is left; the store has been closed before.
func (c *cluster) close(context.Context) error {
	if c.pool != nil {
		c.pool.Close()
	}
	err := c.source.Close()
	if c.session != nil {
		c.session.Close()
	}
	return err
}

// peerSecrets are those by which gateways know each other, the present one first.
func (c *cluster) peerSecrets() [][]byte {
	s := c.meta.Snapshot().Secret(meta.SecretPeer)
	switch {
	case s == nil:
		return nil
	case len(s.Previous) > 0:
		return [][]byte{s.Current, s.Previous}
	}
	return [][]byte{s.Current}
}

// receiptSecret is what receipts are made with: the cluster's, so that any gateway knows them again, or our own.
func (c *cluster) receiptSecret(own []byte) func() []byte {
	if c.session == nil {
		return func() []byte { return own }
	}
	return func() []byte {
		if s := c.meta.Snapshot().Secret(meta.SecretReceipts); s != nil {
			return s.Current
		}
		return own
	}
}

// pluginSecrets are what those of a plugin are derived from: the cluster's, none until they were read, or our own.
func (c *cluster) pluginSecrets(own []byte) func() [][]byte {
	if c.session == nil {
		return func() [][]byte { return [][]byte{own} }
	}
	return func() [][]byte {
		s := c.meta.Snapshot().Secret(meta.SecretPlugins)
		switch {
		case s == nil:
			return nil
		case len(s.Previous) > 0:
			return [][]byte{s.Current, s.Previous}
		}
		return [][]byte{s.Current}
	}
}

// keepSecrets makes the cluster's secrets where there are none, and replaces, as one gateway's duty, that of the peers
// when it has served its time. The one before stays good until the next replacement: a gateway that has not heard of
// the new one yet is still let in.
func (c *cluster) keepSecrets(ctx context.Context) {
	c.untilDone(ctx, "making the cluster's secrets", func() error {
		for _, name := range []string{meta.SecretPeer, meta.SecretReceipts, meta.SecretPlugins} {
			fresh := &meta.Secret{Name: name, Current: randomBytes(secretSize), Rotated: time.Now().UTC()}
			if c.meta.Snapshot().Secret(name) != nil {
				continue
			}
			if _, err := c.meta.Put(ctx, fresh, meta.Absent); err != nil && !errors.Is(err, errs.Conflict) {
				return err
			}
		}
		return nil
	})
	c.untilDone(ctx, "replacing the peers' secret", func() error {
		return c.registry.Lead(ctx, "secrets", func(ctx context.Context, _ int64) error {
			for ctx.Err() == nil {
				if err := c.rotate(ctx, secretLife); err != nil {
					return err
				}
				wait(ctx, time.Hour)
			}
			return context.Cause(ctx) // the duty was lost: back into the queue for it
		})
	})
}

// rotate replaces the peers' secret where it is older than that.
func (c *cluster) rotate(ctx context.Context, older time.Duration) error {
	young := func(s *meta.Secret) bool { return s != nil && time.Since(s.Rotated) < older }
	if young(c.meta.Snapshot().Secret(meta.SecretPeer)) {
		return nil
	}
	id := (&meta.Secret{Name: meta.SecretPeer}).ID()
	return c.meta.Update(ctx, id, func(present meta.Record) (meta.Record, error) {
		s, found := present.(*meta.Secret)
		if found && young(s) { // somebody else was faster
			return s, nil
		}
		next := &meta.Secret{Name: meta.SecretPeer, Current: randomBytes(secretSize), Rotated: time.Now().UTC()}
		if found {
			next.Previous = s.Current
		}
		return next, nil
	})
}

// untilDone tries again until it succeeds or ctx ends. It begins when meta has been read: an older snapshot can't be written to.
func (c *cluster) untilDone(ctx context.Context, what string, do func() error) {
	select {
	case <-c.meta.Loaded():
	case <-ctx.Done():
	}
	for ctx.Err() == nil {
		err := do()
		if err == nil {
			return
		}
		if ctx.Err() == nil {
			c.log.Debug("trying again", "what", what, "error", err)
		}
		wait(ctx, 2*time.Second)
	}
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

package guard

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/plugins"
)

const (
	sweepEvery = 30 * time.Second
	forgiven   = 10 * time.Minute // after which a block counts as the first one again
	parts      = 16
	maxEntries = 65_536 // of a book; then one that is not blocked goes for a new one
)

// fault reports whether an outcome counts against who caused it, and whether as a guess at somebody's key. What comes of a
// race with others, of a limit, or of us does not.
func fault(k errs.Kind) (counts, guess bool) {
	switch k {
	case errs.Unauthenticated:
		return true, true
	case errs.InvalidName, errs.InvalidParam, errs.InvalidBody, errs.Denied, errs.UnknownTopic, errs.UnknownApp, errs.NotFound,
		errs.MethodNotAllowed, errs.TooLarge, errs.UnsupportedEncoding, errs.SchemaViolation, errs.HeadersTooLarge:
		return true, false
	}
	return false, false
}

// Arrives is plugins.Watcher's.
func (p *Plugin) Arrives(addr netip.Addr) time.Duration {
	d := p.addresses.left(addr)
	if d > 0 {
		p.refused[badAddress].Inc()
	}
	return d
}

// Ended is plugins.Watcher's.
func (p *Plugin) Ended(addr netip.Addr, err error) {
	if d := p.addresses.note(addr, err); d > 0 {
		p.log.Warn("an address sends one faulty request after another; it is left out for a while", "address", addr.String(), "time", d, "last", errs.Of(err).Code())
	}
}

// confined refuses an app that is left out. Only of who has shown a key is it known that it is that app.
func (p *Plugin) confined(c *plugins.Call) error {
	if c.KeyID == "" {
		return nil
	}
	d := p.apps.left(c.App)
	if d <= 0 {
		return nil
	}
	p.refused[badApp].Inc()
	return fmt.Errorf("too many requests of app %s were faulty; it is left out for %v: %w", c.App, d.Round(time.Second), errs.Throttled)
}

// judge counts what came of a call of an app.
func (p *Plugin) judge(c *plugins.Call, err error) error {
	if c.KeyID == "" || p.apps.empty() && err == nil || isLoopback(c.Remote) {
		return err
	}
	if d := p.apps.note(c.App, err); d > 0 {
		p.log.Warn("an app sends one faulty request after another; it is left out for a while", "app", c.App, "time", d, "last", errs.Of(err).Code())
	}
	return err
}

func isLoopback(remote string) bool {
	ap, err := netip.ParseAddrPort(remote)
	return err == nil && ap.Addr().Unmap().IsLoopback()
}

// book knows whose requests were faulty lately. While it is empty it costs a read of a number.
type book[K comparable] struct {
	most       float64 // faults that are put up with; as many are forgiven a minute
	first, max time.Duration
	seed       maphash.Seed
	entries    atomic.Int64
	parts      [parts]struct {
		mu   sync.Mutex
		list map[K]*entry
	}
}

// entry is one client.
type entry struct {
	faults  float64 // a request that is sound makes up for one
	guesses float64 // nothing makes up for these but time
	at      time.Time
	until   time.Time // left out; zero: not lately
	blocks  int       // so far
}

func newBook[K comparable](o *Options) *book[K] {
	b := &book[K]{most: o.Faults, first: o.Block, max: o.MaxBlock, seed: maphash.MakeSeed()}
	for i := range b.parts {
		b.parts[i].list = map[K]*entry{}
	}
	return b
}

func (b *book[K]) empty() bool { return b.entries.Load() == 0 }

func (b *book[K]) part(key K) int { return int(maphash.Comparable(b.seed, key) % parts) }

// left is for how much longer the client is left out; 0 where it is not.
func (b *book[K]) left(key K) time.Duration {
	if b.empty() {
		return 0
	}
	p := &b.parts[b.part(key)]
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.list[key]
	if e == nil || e.until.IsZero() {
		return 0
	}
	return max(time.Until(e.until), 0)
}

// note counts the outcome of a request, and answers for how long its client is left out if this was one too many.
func (b *book[K]) note(key K, err error) time.Duration {
	counts, guess := false, false
	if err != nil {
		if errors.Is(err, context.Canceled) {
			return 0
		}
		counts, guess = fault(errs.Of(err))
	}
	if b.most == 0 || !counts && (err != nil || b.empty()) {
		return 0
	}
	p := &b.parts[b.part(key)]
	p.mu.Lock()
	defer p.mu.Unlock()
	e, now := p.list[key], time.Now()
	switch {
	case e == nil && !counts:
		return 0
	case e == nil:
		if len(p.list) >= maxEntries/parts {
			b.entries.Add(-evict(p.list, now))
		}
		e = &entry{at: now}
		p.list[key] = e
		b.entries.Add(1)
	}
	return b.count(e, now, counts, guess)
}

// count adds to an entry.
func (b *book[K]) count(e *entry, now time.Time, counts, guess bool) time.Duration {
	forgive := now.Sub(e.at).Minutes() * b.most
	e.faults, e.guesses, e.at = max(e.faults-forgive, 0), max(e.guesses-forgive, 0), now
	switch {
	case guess:
		e.guesses++
	case counts:
		e.faults++
	default:
		e.faults = max(e.faults-1, 0)
	}
	if e.faults <= b.most && e.guesses <= b.most || now.Before(e.until) {
		return 0
	}
	if !e.until.IsZero() && now.Sub(e.until) > forgiven {
		e.blocks = 0
	}
	d := b.max
	if e.blocks < 30 {
		d = min(b.first<<e.blocks, b.max)
	}
	e.blocks++
	e.faults, e.guesses, e.until = b.most*9/10, b.most*9/10, now.Add(d) // less is put up with from then on
	return d
}

// evict makes room: who is longest forgiven of a few, or else anybody who is not blocked, or anybody.
func evict[K comparable](list map[K]*entry, now time.Time) int64 {
	var worst K
	found := 0
	for key, e := range list { // in random order
		if !now.Before(e.until) {
			delete(list, key)
			return 1
		}
		if worst = key; found == 100 {
			break
		}
		found++
	}
	delete(list, worst)
	return 1
}

// sweep forgets who has nothing against him.
func (b *book[K]) sweep(now time.Time) {
	for i := range b.parts {
		p := &b.parts[i]
		p.mu.Lock()
		for key, e := range p.list {
			over := e.until.IsZero() && now.Sub(e.at) > time.Minute || !e.until.IsZero() && now.Sub(e.until) > forgiven
			if over {
				delete(p.list, key)
				b.entries.Add(-1)
			}
		}
		p.mu.Unlock()
	}
}

// blocked is how many are left out now.
func (b *book[K]) blocked() (n int) {
	if b.empty() {
		return 0
	}
	now := time.Now()
	for i := range b.parts {
		p := &b.parts[i]
		p.mu.Lock()
		for _, e := range p.list {
			if now.Before(e.until) {
				n++
			}
		}
		p.mu.Unlock()
	}
	return n
}

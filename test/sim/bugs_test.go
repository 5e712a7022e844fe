package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
	"github.com/kateway/kateway/test/checker"
)

// bugs are places where a fault of the product can be planted. Nil ones do what is right.
type bugs struct {
	publish   func(ctx context.Context, s store.Publisher, topic string, msgs ...*store.Message) error
	subscribe func(spec *store.Spec, process string)
	commit    func(p *store.Position)
	settle    func(settle func(...group.Verb) []error, verbs []group.Verb) []error
	disk      func(vfs.FS) vfs.FS
}

func (b bugs) withDefaults() bugs {
	if b.publish == nil {
		b.publish = func(ctx context.Context, s store.Publisher, topic string, msgs ...*store.Message) error {
			return s.Publish(ctx, topic, store.AckAll, msgs...)
		}
	}
	if b.subscribe == nil {
		b.subscribe = func(*store.Spec, string) {}
	}
	if b.commit == nil {
		b.commit = func(*store.Position) {}
	}
	if b.settle == nil {
		b.settle = func(settle func(...group.Verb) []error, verbs []group.Verb) []error { return settle(verbs...) }
	}
	if b.disk == nil {
		b.disk = func(fs vfs.FS) vfs.FS { return fs }
	}
	return b
}

// nowAndThen is one time in twenty.
func nowAndThen() func() bool {
	var n atomic.Int64
	return func() bool { return n.Add(1)%20 == 7 }
}

// dropping stores to the topics but for some messages, and says that it has stored all.
func dropping(topics func(string) bool) bugs {
	drop := nowAndThen()
	return bugs{publish: func(ctx context.Context, s store.Publisher, topic string, msgs ...*store.Message) error {
		if topics(topic) && drop() {
			for i, m := range msgs {
				m.Partition, m.Offset = 0, int64(1_000_000+i)
			}
			return nil
		}
		return s.Publish(ctx, topic, store.AckAll, msgs...)
	}}
}

// tinker changes each message of the topic, one time in twenty, before it is stored.
func tinker(change func(m *store.Message)) bugs {
	now := nowAndThen()
	return bugs{publish: func(ctx context.Context, s store.Publisher, topic string, msgs ...*store.Message) error {
		for _, m := range msgs {
			if topic == topicName && now() {
				change(m)
			}
		}
		return s.Publish(ctx, topic, store.AckAll, msgs...)
	}}
}

// settling answers verbs of its own accord.
func settling(answer func(settle func(...group.Verb) []error, verbs []group.Verb) []error) bugs {
	return bugs{settle: answer}
}

// unsynced is a file system on which a log is never synced.
type unsynced struct{ vfs.FS }

type unsyncedFile struct{ vfs.File }

func (u unsynced) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := u.FS.Create(name, category)
	return unsyncedFile{f}.where(name, err)
}

func (u unsynced) ReuseForWrite(old, name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := u.FS.ReuseForWrite(old, name, category)
	return unsyncedFile{f}.where(name, err)
}

func (f unsyncedFile) where(name string, err error) (vfs.File, error) {
	if err != nil || !strings.HasSuffix(name, ".log") {
		return f.File, err
	}
	return f, nil
}

func (unsyncedFile) Sync() error                { return nil }
func (unsyncedFile) SyncData() error            { return nil }
func (unsyncedFile) SyncTo(int64) (bool, error) { return true, nil }

// plant is a bug, the rules by which it is found, and the kind of fault that it takes, if any.
type plant struct {
	bugs  bugs
	rules []string
	fault string
}

func planted() map[string]plant {
	forgets := nowAndThen()
	return map[string]plant{
		"a message is dropped":      {dropping(func(t string) bool { return t == topicName }), []string{"C1", "C23"}, ""},
		"a dead message is dropped": {dropping(func(t string) bool { return strings.HasSuffix(t, ".dead") }), []string{"C20"}, ""},
		"a message is stored twice": {bugs{publish: func(ctx context.Context, s store.Publisher, topic string, msgs ...*store.Message) error {
			if err := s.Publish(ctx, topic, store.AckAll, msgs...); err != nil || topic != topicName {
				return err
			}
			return s.Publish(ctx, topic, store.AckAll, msgs[0].Clone())
		}}, []string{"C7"}, ""},
		"a byte is changed":           {tinker(func(m *store.Message) { m.Value[len(m.Value)-1] ^= 1 }), []string{"C4"}, ""},
		"a key goes to any partition": {tinker(func(m *store.Message) { m.Partition, m.Key = store.AnyPartition, []byte(fmt.Sprintf("%p", m)) }), []string{"C4"}, ""},
		"the commit is beyond what is done": {bugs{commit: func(p *store.Position) {
			if p.Next > 3 {
				p.Next++
			}
		}}, []string{"C9"}, ""},
		"stale receipts are accepted": {settling(func(settle func(...group.Verb) []error, verbs []group.Verb) []error {
			out := settle(verbs...)
			for i := range out {
				if errors.Is(out[i], errs.Fenced) {
					out[i] = nil
				}
			}
			return out
		}), []string{"C11", "C8"}, ""},
		"an ack is forgotten": {settling(func(settle func(...group.Verb) []error, verbs []group.Verb) []error {
			if forgets() {
				return make([]error, len(verbs))
			}
			return settle(verbs...)
		}), []string{"C8"}, ""},
		"each gateway has everything": {bugs{subscribe: func(s *store.Spec, process string) { s.Group += process }}, []string{"C8", "C16"}, ""},
		"the spool does not sync":     {bugs{disk: func(fs vfs.FS) vfs.FS { return unsynced{fs} }}, []string{"C23", "C1"}, "power cut"},
	}
}

// TestSimFindsPlantedBugs plants bugs into what stands around the product and between its parts, and expects each to be found
// within 100 seeds, of those that have the fault which brings it out.
func TestSimFindsPlantedBugs(t *testing.T) {
	for name, p := range planted() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed, tried := uint64(0), 0; tried < 100; seed++ {
				found := false
				if !slices.ContainsFunc(draw(seed).faults, func(f faultPlan) bool { return p.fault == "" || f.kind == p.fault }) {
					continue
				}
				tried++
				synctest.Test(t, func(t *testing.T) {
					_, r := simulate(t, seed, p.bugs)
					found = slices.ContainsFunc(r.Anomalies, func(a checker.Anomaly) bool { return slices.Contains(p.rules, a.Rule) })
				})
				if found {
					t.Logf("found with seed %d", seed)
					return
				}
			}
			t.Error("not found")
		})
	}
}

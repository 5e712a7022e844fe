package clusters

import (
	"context"
	"iter"
	"slices"
	"strings"
	"testing"

	"github.com/kateway/kateway/store"
	"github.com/kateway/kateway/store/mem"
	"github.com/kateway/kateway/store/storetest"
)

// TestStoreBehindAPrefix: through a cluster's name a store is what it is by itself.
func TestStoreBehindAPrefix(t *testing.T) { suite(t, "other:") }

// TestDefaultStore: and so is the default one.
func TestDefaultStore(t *testing.T) { suite(t, "") }

func suite(t *testing.T, prefix string) {
	open := func(m *mem.Store) store.Store {
		other := mem.New()
		if prefix != "" {
			m, other = other, m
		}
		return &prefixed{New(Config{
			Default: m,
			Open:    func(context.Context, string) (store.Store, error) { return other, nil },
			Names:   func() []string { return []string{"other"} },
		}), prefix}
	}
	inner := func(t *testing.T, s store.Store) *mem.Store {
		p := s.(*prefixed)
		l, _, err := p.use(t.Context(), p.prefix+"any")
		if err != nil {
			t.Fatal(err)
		}
		defer l.done()
		return l.Store.(*mem.Store)
	}
	reopened := map[store.Store]*mem.Store{} // what was closed can't be asked any more
	storetest.Run(t, storetest.Config{
		New: func(t *testing.T) store.Store {
			m := mem.New()
			s := open(m)
			reopened[s] = m
			return s
		},
		Reopen: func(t *testing.T, s store.Store) store.Store {
			_ = s.Close(t.Context())
			m := reopened[s].Reopen()
			again := open(m)
			reopened[again] = m
			return again
		},
		Cut:   func(t *testing.T, s store.Store) func() { return inner(t, s).Cut() },
		Crash: func(_ *testing.T, _ store.Store, f store.Feed) { mem.Crash(f) },
		Trim: func(t *testing.T, s store.Store, topic string, p int32, before int64) {
			if err := inner(t, s).Trim(topic, p, before); err != nil {
				t.Fatal(err)
			}
		},
		TooLarge: mem.MaxMessage + 1,
	})
}

// prefixed is the store of one cluster, without saying its name.
type prefixed struct {
	*Stores
	prefix string
}

func (p *prefixed) Publish(ctx context.Context, topic string, ack store.Ack, msgs ...*store.Message) error {
	return p.Stores.Publish(ctx, p.prefix+topic, ack, msgs...)
}

func (p *prefixed) PublishOnce(ctx context.Context, topic string, ack store.Ack, once store.Once, msgs ...*store.Message) error {
	return p.Stores.PublishOnce(ctx, p.prefix+topic, ack, once, msgs...)
}

func (p *prefixed) Subscribe(ctx context.Context, spec store.Spec) (store.Feed, error) {
	spec.Topic = p.prefix + spec.Topic
	return p.Stores.Subscribe(ctx, spec)
}

func (p *prefixed) Follow(ctx context.Context, topic string, from []store.Position) (store.Tail, error) {
	return p.Stores.Follow(ctx, p.prefix+topic, from)
}

func (p *prefixed) Topics(ctx context.Context) ([]store.Topic, error) {
	list, err := p.Stores.Topics(ctx)
	list = slices.DeleteFunc(list, func(t store.Topic) bool { return !strings.HasPrefix(t.Name, p.prefix) })
	for i := range list {
		list[i].Name = strings.TrimPrefix(list[i].Name, p.prefix)
	}
	return list, err
}

func (p *prefixed) CreateTopic(ctx context.Context, t store.Topic) error {
	t.Name = p.prefix + t.Name
	return p.Stores.CreateTopic(ctx, t)
}

func (p *prefixed) AlterTopic(ctx context.Context, t store.Topic) error {
	t.Name = p.prefix + t.Name
	return p.Stores.AlterTopic(ctx, t)
}

func (p *prefixed) DeleteTopic(ctx context.Context, topic string) error {
	return p.Stores.DeleteTopic(ctx, p.prefix+topic)
}

func (p *prefixed) Groups(ctx context.Context, topic string) ([]string, error) {
	return p.Stores.Groups(ctx, p.prefix+topic)
}

func (p *prefixed) Lag(ctx context.Context, topic, group string) ([]store.PartitionLag, error) {
	return p.Stores.Lag(ctx, p.prefix+topic, group)
}

func (p *prefixed) Seek(ctx context.Context, topic, group string, to ...store.Position) error {
	return p.Stores.Seek(ctx, p.prefix+topic, group, to...)
}

func (p *prefixed) ForgetGroup(ctx context.Context, topic, group string) error {
	return p.Stores.ForgetGroup(ctx, p.prefix+topic, group)
}

func (p *prefixed) Resolve(ctx context.Context, topic string, start store.Start) ([]store.Position, error) {
	return p.Stores.Resolve(ctx, p.prefix+topic, start)
}

func (p *prefixed) Browse(ctx context.Context, topic string, partition int32, offset int64) iter.Seq2[*store.Message, error] {
	return p.Stores.Browse(ctx, p.prefix+topic, partition, offset)
}

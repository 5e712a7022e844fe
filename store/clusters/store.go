package clusters

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// Publish is store.Publisher's.
func (s *Stores) Publish(ctx context.Context, place string, ack store.Ack, msgs ...*store.Message) error {
	l, topic, err := s.use(ctx, place)
	if err != nil {
		return err
	}
	defer l.done()
	return l.Publish(ctx, topic, ack, msgs...)
}

// PublishOnce is store.OncePublisher's where the topic's store is one, else InvalidParam.
func (s *Stores) PublishOnce(ctx context.Context, place string, ack store.Ack, once store.Once, msgs ...*store.Message) error {
	l, topic, err := s.use(ctx, place)
	if err != nil {
		return err
	}
	defer l.done()
	p, ok := l.Store.(store.OncePublisher)
	if !ok {
		return fmt.Errorf("the store of %q can't remember idempotency keys; publish without one: %w", place, errs.InvalidParam)
	}
	return p.PublishOnce(ctx, topic, ack, once, msgs...)
}

// counter is a store that knows some topics' partitions without asking its cluster.
type counter interface{ Partitions(topic string) int32 }

// Partitions is how many a topic has, as far as that is known without asking or opening anything; 0 where it is not.
func (s *Stores) Partitions(place string) int32 {
	cluster, topic, found := strings.Cut(place, ":")
	st := s.first
	if !found {
		topic = place
	} else {
		st = s.opened(cluster)
	}
	if c, ok := st.(counter); ok {
		return c.Partitions(topic)
	}
	return 0
}

// opened is the store of a cluster if it is open, else nil.
func (s *Stores) opened(cluster string) store.Store {
	s.mu.Lock()
	m := s.members[cluster]
	s.mu.Unlock()
	if m == nil {
		return nil
	}
	select {
	case <-m.opened:
		return m.store
	default:
		return nil
	}
}

// Subscribe is store.Subscriber's.
func (s *Stores) Subscribe(ctx context.Context, spec store.Spec) (store.Feed, error) {
	l, topic, err := s.use(ctx, spec.Topic)
	if err != nil {
		return nil, err
	}
	defer l.done()
	spec.Topic = topic
	return l.Subscribe(ctx, spec)
}

// Follow is store.Follower's where the topic's store is one, else InvalidParam.
func (s *Stores) Follow(ctx context.Context, place string, from []store.Position) (store.Tail, error) {
	l, topic, err := s.use(ctx, place)
	if err != nil {
		return nil, err
	}
	defer l.done()
	f, ok := l.Store.(store.Follower)
	if !ok {
		return nil, fmt.Errorf("the store of %q can't be read without a group; give one: %w", place, errs.InvalidParam)
	}
	return f.Follow(ctx, topic, from)
}

// Topics lists those of all clusters that Config.Names lists, or that were used before. Beside an error it answers the
// topics of those clusters that could be reached; the error names the others.
func (s *Stores) Topics(ctx context.Context) ([]store.Topic, error) {
	var wg sync.WaitGroup
	names := s.names()
	lists, faults := make([][]store.Topic, 1+len(names)), make([]error, 1+len(names))
	wg.Go(func() { lists[0], faults[0] = s.first.Topics(ctx) })
	for i, name := range names {
		wg.Go(func() { lists[1+i], faults[1+i] = s.topicsOf(ctx, name) })
	}
	wg.Wait()
	list := slices.Concat(lists...)
	slices.SortFunc(list, func(a, b store.Topic) int { return strings.Compare(a.Name, b.Name) })
	return list, errors.Join(faults...)
}

func (s *Stores) names() []string {
	if s.cfg.Names != nil {
		return s.cfg.Names()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.members))
}

func (s *Stores) topicsOf(ctx context.Context, cluster string) ([]store.Topic, error) {
	l, err := s.lease(ctx, cluster)
	if err != nil {
		return nil, err
	}
	defer l.done()
	list, err := l.Topics(ctx)
	if err != nil {
		return nil, fmt.Errorf("cluster %q: %w", cluster, err)
	}
	for i := range list {
		list[i].Name = cluster + ":" + list[i].Name
	}
	return list, nil
}

// CreateTopic is store.Admin's, as are the methods below. The name says the cluster.
func (s *Stores) CreateTopic(ctx context.Context, t store.Topic) error {
	l, topic, err := s.use(ctx, t.Name)
	if err != nil {
		return err
	}
	defer l.done()
	t.Name = topic
	return l.CreateTopic(ctx, t)
}

// AlterTopic changes what is not zero.
func (s *Stores) AlterTopic(ctx context.Context, t store.Topic) error {
	l, topic, err := s.use(ctx, t.Name)
	if err != nil {
		return err
	}
	defer l.done()
	t.Name = topic
	return l.AlterTopic(ctx, t)
}

// DeleteTopic removes it from its cluster.
func (s *Stores) DeleteTopic(ctx context.Context, place string) error {
	l, topic, err := s.use(ctx, place)
	if err != nil {
		return err
	}
	defer l.done()
	return l.DeleteTopic(ctx, topic)
}

// Groups lists those of the topic's cluster.
func (s *Stores) Groups(ctx context.Context, place string) ([]string, error) {
	l, topic, err := s.use(ctx, place)
	if err != nil {
		return nil, err
	}
	defer l.done()
	return l.Groups(ctx, topic)
}

// Lag tells how far the group is.
func (s *Stores) Lag(ctx context.Context, place, group string) ([]store.PartitionLag, error) {
	l, topic, err := s.use(ctx, place)
	if err != nil {
		return nil, err
	}
	defer l.done()
	return l.Lag(ctx, topic, group)
}

// Seek sets positions.
func (s *Stores) Seek(ctx context.Context, place, group string, to ...store.Position) error {
	l, topic, err := s.use(ctx, place)
	if err != nil {
		return err
	}
	defer l.done()
	return l.Seek(ctx, topic, group, to...)
}

// ForgetGroup removes the group's positions.
func (s *Stores) ForgetGroup(ctx context.Context, place, group string) error {
	l, topic, err := s.use(ctx, place)
	if err != nil {
		return err
	}
	defer l.done()
	return l.ForgetGroup(ctx, topic, group)
}

// Resolve tells where start is.
func (s *Stores) Resolve(ctx context.Context, place string, start store.Start) ([]store.Position, error) {
	l, topic, err := s.use(ctx, place)
	if err != nil {
		return nil, err
	}
	defer l.done()
	return l.Resolve(ctx, topic, start)
}

// Browse keeps the store open while it yields.
func (s *Stores) Browse(ctx context.Context, place string, partition int32, offset int64) iter.Seq2[*store.Message, error] {
	return func(yield func(*store.Message, error) bool) {
		l, topic, err := s.use(ctx, place)
		if err != nil {
			yield(nil, err)
			return
		}
		defer l.done()
		l.Browse(ctx, topic, partition, offset)(yield)
	}
}

// Ping asks the default store.
func (s *Stores) Ping(ctx context.Context) error { return s.first.Ping(ctx) }

// Describe describes the default store, see DescribeCluster.
func (s *Stores) Describe(ctx context.Context) (store.Cluster, error) {
	return describe(ctx, s.first)
}

// DescribeCluster is store.Describer's Describe for a cluster, "" being the default one; NotFound where that is no
// store.Describer.
func (s *Stores) DescribeCluster(ctx context.Context, cluster string) (store.Cluster, error) {
	if cluster == "" {
		return s.Describe(ctx)
	}
	l, err := s.lease(ctx, cluster)
	if err != nil {
		return store.Cluster{}, err
	}
	defer l.done()
	return describe(ctx, l.Store)
}

func describe(ctx context.Context, st store.Store) (store.Cluster, error) {
	d, ok := st.(store.Describer)
	if !ok {
		return store.Cluster{}, fmt.Errorf("the store is no cluster of servers: %w", errs.NotFound)
	}
	return d.Describe(ctx)
}

// Warnings looks at the topics that are named, each in its cluster, or at all of the default one. Stores that are no
// store.Describer have none. Beside an error it answers the warnings of those clusters that could be reached.
func (s *Stores) Warnings(ctx context.Context, places ...string) ([]string, error) {
	topics := map[string][]string{}
	for _, place := range places {
		cluster, topic, found := strings.Cut(place, ":")
		if !found {
			cluster, topic = "", place
		}
		topics[cluster] = append(topics[cluster], topic)
	}
	if len(places) == 0 {
		topics[""] = nil
	}
	var all []string
	var faults []error
	for _, cluster := range slices.Sorted(maps.Keys(topics)) {
		list, err := s.warningsOf(ctx, cluster, topics[cluster])
		for _, w := range list {
			all = append(all, cmp.Or(cluster, "default")+": "+w)
		}
		faults = append(faults, err)
	}
	return all, errors.Join(faults...)
}

func (s *Stores) warningsOf(ctx context.Context, cluster string, topics []string) ([]string, error) {
	l := lease{Store: s.first}
	if cluster != "" {
		var err error
		if l, err = s.lease(ctx, cluster); err != nil {
			return nil, err
		}
	}
	defer l.done()
	if d, ok := l.Store.(store.Describer); ok {
		return d.Warnings(ctx, topics...)
	}
	return nil, nil
}

// recommitter is a store whose cluster forgets the positions of groups that nobody uses for long.
type recommitter interface {
	Recommit(ctx context.Context) (int, error)
}

// Recommit writes again the positions of groups that nobody uses, in every cluster that forgets such, and answers how many
// groups it did, also beside an error, which names the clusters where it failed.
func (s *Stores) Recommit(ctx context.Context) (int, error) {
	done, err := recommit(ctx, s.first)
	faults := []error{err}
	for _, cluster := range s.names() {
		l, err := s.lease(ctx, cluster)
		if err == nil {
			var n int
			n, err = recommit(ctx, l.Store)
			done += n
			l.done()
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("cluster %q: %w", cluster, err))
		}
	}
	return done, errors.Join(faults...)
}

func recommit(ctx context.Context, st store.Store) (int, error) {
	if r, ok := st.(recommitter); ok {
		return r.Recommit(ctx)
	}
	return 0, nil
}

// mortal is a store that can come to a point where only a new process can go on, as the embedded one.
type mortal interface {
	Done() <-chan struct{}
	Err() error
}

// Done is closed when the default store can't go on; nil for one that always can.
func (s *Stores) Done() <-chan struct{} {
	if m, ok := s.first.(mortal); ok {
		return m.Done()
	}
	return nil
}

// Err says why it can't.
func (s *Stores) Err() error {
	if m, ok := s.first.(mortal); ok {
		return m.Err()
	}
	return nil
}

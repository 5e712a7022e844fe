package meta

import (
	"hash/maphash"
	"slices"
	"sync/atomic"
)

// Snapshot is everything that meta knew at one time. It never changes, its methods never wait and may be called
// concurrently. The records that it answers are shared: nobody writes to them. Copy one to change it.
type Snapshot struct {
	objects map[Kind]*table
	topics  topicTable
	grants  sharded[grant, *Subscription]
	keys    sharded[string, appKey]
	schemas sharded[Topic, []*Schema]

	topicsOf sharded[string, int] // by app
	appsIn   sharded[string, int] // by cluster
	topicsIn sharded[string, int] // by cluster

	revision uint64
	stale    bool
}

// table is the objects of a kind by name.
type table struct {
	sharded[string, object]

	sorted atomic.Pointer[[]string] // the names, made when first asked for
}

// object is a record and the content that it was read from.
type object struct {
	record Record
	data   []byte
}

// grant is what a subscription is looked up by.
type grant struct {
	topic      Topic
	subscriber string
}

// appKey is a key and whose it is.
type appKey struct {
	app *App
	key *Key
}

func newSnapshot() *Snapshot {
	s := &Snapshot{objects: map[Kind]*table{}, topics: topicTable{seed: maphash.MakeSeed()}}
	for _, k := range Kinds() {
		s.objects[k] = &table{}
	}
	return s
}

// Topic is how the topic is registered; nil where it is not. It is asked for by every publish: no allocation, one hash and one map read.
func (s *Snapshot) Topic(t Topic) *TopicRecord {
	return s.topics.get(t)
}

// App is nil where there is none of this name.
func (s *Snapshot) App(name string) *App { return find[*App](s, KindApp, name) }

// Key finds an app's key by its id; nil where there is none. Whether it is good any more is the caller's to see.
func (s *Snapshot) Key(keyID string) (*App, *Key) {
	k, _ := s.keys.get(keyID)
	return k.app, k.key
}

// Subscription is the subscriber's grant; nil where there is none.
func (s *Snapshot) Subscription(t Topic, subscriber string) *Subscription {
	g, _ := s.grants.get(grant{t, subscriber})
	return g
}

// MayRead reports whether the subscriber may read the topic with this group: its own always, another app's by a grant that
// names the group, or none at all.
func (s *Snapshot) MayRead(subscriber, group string, t Topic) bool {
	if subscriber == t.App {
		return true
	}
	g := s.Subscription(t, subscriber)
	return g != nil && (len(g.Groups) == 0 || slices.Contains(g.Groups, group))
}

// Cluster is nil where there is none of this name, as with the default one.
func (s *Snapshot) Cluster(name string) *Cluster { return find[*Cluster](s, KindCluster, name) }

// AdminKey is nil where there is none of this id.
func (s *Snapshot) AdminKey(id string) *AdminKey { return find[*AdminKey](s, KindAdminKey, id) }

// Option is nil where nobody has set it.
func (s *Snapshot) Option(name string) *Option { return find[*Option](s, KindOption, name) }

// Secret is nil where there is none of this name.
func (s *Snapshot) Secret(name string) *Secret { return find[*Secret](s, KindSecret, name) }

func find[R Record](s *Snapshot, kind Kind, name string) R {
	o, _ := s.objects[kind].get(name)
	r, _ := o.record.(R)
	return r
}

// Record is the object and the ETag of its content; nil where there is none.
func (s *Snapshot) Record(id ID) (r Record, etag string) {
	o, ok := s.object(id)
	if !ok {
		return nil, ""
	}
	return o.record, ETag(o.data)
}

func (s *Snapshot) object(id ID) (object, bool) {
	t := s.objects[id.Kind]
	if t == nil {
		return object{}, false
	}
	return t.get(id.Name)
}

// List is the objects of a kind whose names sort behind after, in the order of their names, limit at most.
func (s *Snapshot) List(kind Kind, after string, limit int) []Record {
	t := s.objects[kind]
	if t == nil {
		return nil
	}
	names := t.names()
	at, found := slices.BinarySearch(names, after)
	if found {
		at++
	}
	names = names[at:]
	list := make([]Record, 0, max(0, min(limit, len(names))))
	for _, name := range names[:cap(list)] {
		o, _ := t.get(name)
		list = append(list, o.record)
	}
	return list
}

func (t *table) names() []string {
	if known := t.sorted.Load(); known != nil {
		return *known
	}
	names := make([]string, 0, t.count)
	for name := range t.all() {
		names = append(names, name)
	}
	slices.Sort(names)
	t.sorted.Store(&names)
	return names
}

// Len is how many objects of a kind there are.
func (s *Snapshot) Len(kind Kind) int {
	if t := s.objects[kind]; t != nil {
		return t.count
	}
	return 0
}

// TopicsOf is how many topics the app owns.
func (s *Snapshot) TopicsOf(app string) int { return count(&s.topicsOf, app) }

// AppsIn is how many apps live on the cluster.
func (s *Snapshot) AppsIn(cluster string) int { return count(&s.appsIn, clusterName(cluster)) }

// TopicsIn is how many topics lie on the cluster.
func (s *Snapshot) TopicsIn(cluster string) int { return count(&s.topicsIn, clusterName(cluster)) }

func count(m *sharded[string, int], name string) int {
	n, _ := m.get(name)
	return n
}

func clusterName(cluster string) string {
	if cluster == "" {
		return DefaultCluster
	}
	return cluster
}

// Revision grows with every change that this process saw. It means nothing to another one.
func (s *Snapshot) Revision() uint64 { return s.revision }

// Stale reports that the source may know better: it could not be reached when the snapshot was made.
func (s *Snapshot) Stale() bool { return s.stale }

// marked is the same content, stale or not.
func (s *Snapshot) marked(stale bool) *Snapshot {
	c := *s
	c.stale = stale
	return &c
}

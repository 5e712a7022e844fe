// Package store is the seam between kateway and what keeps the messages: a Kafka cluster, the embedded log on the local
// disk, or plain memory. The interfaces are contracts in prose; package storetest proves them on every implementation.
//
// All methods of all interfaces may be called concurrently unless they say otherwise. Errors carry a kind of
// package errs; the text is for the log.
package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/kateway/kateway/internal/errs"
)

// AnyPartition as Message.Partition lets the store choose: by key, or any where there is no key.
const AnyPartition int32 = -1

// MaxBeyond is the longest Position.Beyond in bytes: Kafka's default offset.metadata.max.bytes.
const MaxBeyond = 4096

// ErrClosed is what every method answers after Close.
var ErrClosed = fmt.Errorf("store is closed: %w", errs.Unavailable)

// ErrExists is CreateTopic's answer for a topic that is there already.
var ErrExists = fmt.Errorf("topic exists: %w", errs.Conflict)

// Header is a record header. Keys need not be unique within a message; order is kept.
type Header struct {
	Key   string
	Value []byte
}

// Message is one record. A nil Key is no key. A nil Value is a tombstone (Kafka's null), which is something else than an
// empty Value; a nil header value is the same as an empty one.
type Message struct {
	Key, Value []byte
	Headers    []Header
	Partition  int32     // in: wanted, or AnyPartition; out: where it is
	Offset     int64     // out only
	Time       time.Time // in: zero lets the store take the present; out: millisecond precision
}

// Clone copies the message with all its bytes, so that it pins nothing else.
func (m *Message) Clone() *Message {
	c := *m
	c.Key, c.Value = clone(m.Key), clone(m.Value)
	c.Headers = slices.Clone(m.Headers)
	for i := range c.Headers {
		c.Headers[i].Value = clone(c.Headers[i].Value)
	}
	return &c
}

func clone(b []byte) []byte {
	if b == nil {
		return nil
	}
	return append([]byte{}, b...)
}

// Size is what the message counts towards limits: the bytes of its key, value and headers.
func (m *Message) Size() int {
	n := len(m.Key) + len(m.Value)
	for _, h := range m.Headers {
		n += len(h.Key) + len(h.Value)
	}
	return n
}

// Ack says when a publish counts as done.
type Ack uint8

const (
	AckAll   Ack = iota // durable: on all in-sync replicas (Kafka), synced to disk (embedded)
	AckLocal            // taken by the leader (Kafka), written but not synced (embedded)
)

// BatchError tells the messages of one Publish apart: Errs has an entry per message, in order, nil where it was stored.
type BatchError struct{ Errs []error }

func (e *BatchError) Error() string {
	failed, first := 0, error(nil)
	for _, err := range e.Errs {
		if err == nil {
			continue
		}
		if failed++; first == nil {
			first = err
		}
	}
	return fmt.Sprintf("%d of %d messages failed, the first: %v", failed, len(e.Errs), first)
}

// Unwrap gives errors.Is and errors.As the entries that failed, so that errs.Of answers the kind of the first.
func (e *BatchError) Unwrap() []error {
	return slices.DeleteFunc(slices.Clone(e.Errs), func(err error) bool { return err == nil })
}

// Each is the outcome of message i of a Publish that answered err.
func Each(err error, i int) error {
	var b *BatchError
	if errors.As(err, &b) {
		return b.Errs[i]
	}
	return err
}

// Publisher stores messages.
type Publisher interface {
	// Publish returns when every message has an outcome, with Partition, Offset and Time set in those that were stored.
	// Concurrent calls share the store's batches. nil: all stored. A *BatchError: they fared differently, one entry per
	// message. Any other error: none stored, and it holds for each. Messages of one call that go to one partition keep
	// their order there; when one fails, those after it in that partition fail too. Messages with one key go to one
	// partition, chosen by PartitionOf; messages of one call without a key may share a partition.
	//
	// Kinds: UnknownTopic; InvalidParam for a partition that is not there; TooLarge for a message over the store's own
	// limit; Unavailable and DiskFull: certain not to be stored; Uncertain: may or may not be stored.
	//
	// ctx bounds this caller's wait only: one caller hanging up never fails another. A caller that stops waiting gets
	// Uncertain for what it can't know.
	//
	// Until Publish returns, and for ever after Uncertain, the messages and their bytes belong to the store; after any
	// other return it holds none of them, and the caller may scribble on them.
	Publish(ctx context.Context, topic string, ack Ack, msgs ...*Message) error
}

// Once names a publish that is to happen once.
type Once struct {
	Key    string   // 1-128 bytes, chosen by the client, unique within the topic
	Digest [32]byte // of what is published: the same key with another digest is refused
}

// OncePublisher is a power that some stores have: to remember the outcome of a publish as durably as its messages.
type OncePublisher interface {
	// PublishOnce is Publish for the first call with this key and topic. A later call, for the window of time and number that
	// the store is configured with, stores nothing and gives the first call's outcome, in the messages and as the error;
	// one that comes while the first is under way waits for it. Another digest is IdempotencyMismatch. Only outcomes
	// in which something was stored are remembered. Over Close and reopen, and over a crash, the outcome is known exactly
	// when the messages are there.
	PublishOnce(ctx context.Context, topic string, ack Ack, once Once, msgs ...*Message) error
}

// Start says where a group without a position begins. The zero value is the oldest message.
type Start struct {
	Newest bool      // behind the last message
	Since  time.Time // the first message that is not older; behind the last where all are
}

// Spec names a membership.
type Spec struct {
	Topic, Group string
	Start        Start // used once, for a group that has no position on any partition; see Subscribe

	// Instance names this process among the members, the same over restarts; "" is none. A store whose cluster keeps the place
	// of a member that vanished until a time-out has it give up at once, before it joins, the places of its own earlier self and
	// of every instance of which Gone says that it no longer lives. Where the cluster does not allow that, joining goes on
	// and the log says that it takes the time-out. Gone may be nil; it is not called for names that no kateway made.
	Instance string
	Gone     func(instance string) bool
}

// Subscriber makes this process a member of a consumer group.
type Subscriber interface {
	// Subscribe joins the group as one more member. When it returns, every partition of the topic has a committed
	// position: the group's own, or, in a group that had none at all, Spec.Start's; partitions that came later start at
	// their oldest message. It may take as long as the store takes to answer; ctx bounds that, not the feed.
	// Kinds: UnknownTopic, Unavailable.
	Subscribe(ctx context.Context, spec Spec) (Feed, error)
}

// Position is what a group has done on a partition.
type Position struct {
	Partition int32
	Next      int64  // everything below is done
	Beyond    string // what is done above Next and more, in the group's own encoding; valid UTF-8, at most MaxBeyond bytes
}

// Gap is a range of offsets that the group had not done and will never see: retention overtook it, or the topic is
// another one. From is what was expected, To the next that exists; To is below From after a topic was made anew.
type Gap struct {
	Partition int32
	From, To  int64
}

// Refusal is a commit that did not take.
type Refusal struct {
	Partition int32
	Err       error // TooLarge: the store takes less metadata than this; Unavailable: the store could not be reached; any other: as it says
}

// Batch is what one Poll learned, to be applied in the order of the fields.
type Batch struct {
	Lost     []int32    // no longer ours; see Poll
	Gained   []Position // ours from now on, with the position to go on from; a partition may be in Lost as well: it left and came back
	Refused  []Refusal  // earlier commits that failed; the newest position is to be committed again
	Gaps     []Gap
	Messages []*Message // per partition in order, of partitions that are ours, none at or below one that was returned before
}

// Feed is one member's flow of messages. It moves messages and commits; it knows nothing of clients, leases or acks.
type Feed interface {
	// Poll waits until it has something to tell, at most max messages, or until ctx ends (then ctx.Err(), nothing lost).
	// Partitions in paused are passed over: their messages come once they are no longer paused. Only one Poll at a time.
	//
	// A partition in Batch.Lost may still be committed until the next Poll is called: where the loss was a clean one, that
	// commit is kept before another member gains the partition. The next Poll lets it go; waiting long with that holds
	// up the whole group, and after 5 s the store no longer waits.
	//
	// The messages belong to the caller and may share one array of bytes: nobody writes to them; Clone what is kept long.
	//
	// Errors: ErrClosed after Close; UnknownTopic when the topic is gone; any other is temporary, Poll may be called again.
	Poll(ctx context.Context, max int, paused []int32) (Batch, error)

	// Commit notes the position and returns at once; the newest noted position of a partition is written soon, and by
	// Close at the latest. A commit never moves what Poll returns. Fenced when the partition is not held; TooLarge when
	// Beyond is longer than MaxBeyond.
	Commit(p Position) error

	// Close writes what was committed, leaves the group and ends a waiting Poll. ctx bounds the wait. It answers the
	// error of the last write, if that failed. A second Close does nothing.
	Close(ctx context.Context) error
}

// Follower reads a topic without a group.
type Follower interface {
	// Follow reads every partition of the topic from the position given for it; of one that is not given, or that comes later,
	// from its oldest message. A position beyond the end is one of another topic of the name: a gap, and on from the oldest.
	// Beyond of the positions is not looked at. ctx bounds the call, not the tail.
	// Kinds: UnknownTopic; InvalidParam for a partition that is not there; Unavailable.
	Follow(ctx context.Context, topic string, from []Position) (Tail, error)
}

// Tail is the flow of a topic's messages to one reader.
type Tail interface {
	// Poll is Feed.Poll without a group: Gained names partitions that came later, Gaps and Messages are as there, Lost and
	// Refused stay empty. Each message comes once, in the order of its partition. Only one Poll at a time.
	Poll(ctx context.Context, max int) (Batch, error)
	// Close ends a waiting Poll with ErrClosed and frees everything before it returns. A second Close does nothing.
	Close()
}

// Topic describes a topic. Zero fields mean the store's default when creating and "leave as it is" when altering.
type Topic struct {
	Name           string
	Partitions     int32
	Replicas       int16         // embedded: always 1
	Retention      time.Duration // messages older than this may go; negative: no limit
	RetentionBytes int64         // per partition; negative: no limit
	Cleanup        string        // CleanupDelete or CleanupCompact; Topics may list another policy that Kafka has
}

// What becomes of messages.
const (
	CleanupDelete  = "delete"  // they go when a limit of retention is reached
	CleanupCompact = "compact" // the newest of each key stays; a message without a key is refused
)

// PartitionLag is how far a group is on a partition.
type PartitionLag struct {
	Partition  int32
	Start, End int64  // the oldest offset there is, and the one behind the newest
	Committed  int64  // the group's Position.Next; -1 where it has none
	Beyond     string // the group's Position.Beyond
}

// Lag is the number of messages still to do.
func (l PartitionLag) Lag() int64 { return l.End - max(l.Committed, l.Start) }

// Admin looks after topics and groups. Every method may take as long as ctx allows. Kind UnknownTopic where a topic is
// named that is not there.
type Admin interface {
	// Topics lists all topics, sorted by name, the store's own excepted.
	Topics(ctx context.Context) ([]Topic, error)
	// CreateTopic makes a topic. When it returns nil, Publish and Subscribe of this store find it.
	// ErrExists if there is one of this name; Conflict if the store takes another name for the same.
	CreateTopic(ctx context.Context, t Topic) error
	// AlterTopic changes what is not zero. InvalidParam for what the store can't do: partitions can only grow.
	AlterTopic(ctx context.Context, t Topic) error
	// DeleteTopic removes the topic with its messages and its groups' positions.
	DeleteTopic(ctx context.Context, name string) error
	// Groups lists the groups that have a position on the topic or a member, sorted.
	Groups(ctx context.Context, topic string) ([]string, error)
	// Lag answers one entry per partition, sorted, also for a group that nobody ever used.
	Lag(ctx context.Context, topic, group string) ([]PartitionLag, error)
	// Seek sets the group's positions on the partitions given. Conflict while the group has members.
	Seek(ctx context.Context, topic, group string, to ...Position) error
	// ForgetGroup removes the group's positions on the topic, so that it begins there like a new one. Conflict while the
	// group has members; NotFound where it has no position on the topic.
	ForgetGroup(ctx context.Context, topic, group string) error
	// Resolve answers where start is on each partition of the topic, sorted by partition.
	Resolve(ctx context.Context, topic string, start Start) ([]Position, error)
	// Browse yields the messages of one partition from the offset on (the oldest, where it is below) to the end as it is
	// when the iteration begins, touching no group. A message is the caller's. An error ends it.
	Browse(ctx context.Context, topic string, partition int32, offset int64) iter.Seq2[*Message, error]
}

// Store is all of it.
type Store interface {
	Publisher
	Subscriber
	Admin
	// Ping answers nil when the store could take and give messages now, within ctx.
	Ping(ctx context.Context) error
	// Close ends feeds and publishes in flight (they get an outcome) and frees everything; no goroutine is left. ctx bounds the wait.
	Close(ctx context.Context) error
}

// Describer is a power of stores that are clusters of servers.
type Describer interface {
	// Describe is the cluster as it is now. Kind Unavailable.
	Describe(ctx context.Context) (Cluster, error)
	// Warnings are settings under which messages that were acknowledged can be lost, each with what to do about it; at most
	// 100 and a count of the others. It looks at these topics, or at all but the store's own where none is named; a topic that
	// is not there is passed over.
	Warnings(ctx context.Context, topics ...string) ([]string, error)
}

// Cluster is what Describer.Describe answers.
type Cluster struct {
	ID              string
	Controller      int32    // the broker that leads the cluster as a client sees it; -1 where none does
	Brokers         []Broker // those alive, by ID
	Topics          int      // the store's own excepted, as in what follows
	Partitions      int
	Leaderless      int // partitions that can't be used now
	UnderReplicated int // partitions of which a replica is not in sync
}

// Broker is a server of a Cluster.
type Broker struct {
	ID       int32
	Host     string
	Port     int32
	Rack     string
	Leaders  int // partitions that it leads
	Replicas int // partitions that it has a copy of
}

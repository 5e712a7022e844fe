// Package kafka keeps messages in an Apache Kafka cluster (3.9 and later, or what speaks its protocol).
//
// One client serves administration, one all publishes with AckAll, one more those with AckLocal from the first on; each
// member of a group has a client of its own. Memory is bounded: publishes by [Config.MaxBufferedBytes] in all, a member
// by [Config.FetchBytes], which see.
package kafka

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/singleflight"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// How members of a group work with the cluster. TestFailoverFigures compares them: a group whose only member leaves, or
// dies, goes on at the next one in a quarter of a second by both as a rule, but with the new protocol a member hears of
// what is new only every five seconds (group.consumer.heartbeat.interval.ms), and the cluster makes a new assignment not
// at any time (group.consumer.assignment.interval.ms). So a member that joins others has its share after 5 s instead of
// 1.5 s, partitions that move are silent for 4 s instead of 0.6 s, and a clean stop now and then costs 5 s.
const (
	ProtocolAuto     = "auto"     // what fails over faster: the classic one
	ProtocolClassic  = "classic"  // cooperative rebalances, by every Kafka
	ProtocolConsumer = "consumer" // the cluster rebalances (KIP-848), from Kafka 4.0 on; classic where it can't
)

// Config says how to work with a cluster. Zero fields have the default that is named.
type Config struct {
	Brokers     []string           // host:port of some brokers; the others are learned from them
	TLS         func() *tls.Config // for a connection made now; nil = plain connections. Brokers must have certificates for their hosts
	SASL        *SASL              // nil = brokers are not told who we are
	ClientID    string             // how the brokers' logs and metrics name us; "kateway"
	Compression string             // of what is produced: none, gzip, snappy, lz4, zstd; "lz4"
	Log         *slog.Logger

	// Linger is how long a message waits for others to share its batch when more publishes are under way; a lone one never
	// waits. 1 ms; negative: never.
	Linger time.Duration
	// SendTimeout is how long a message may wait until it can be sent. What could not be is Unavailable: it is certain not
	// to be stored. At least 1 s; 5 s.
	SendTimeout time.Duration
	// AnswerTimeout is how long a publish waits in all. What was sent and has no answer by then is Uncertain; it is tried
	// further, and may be stored later. It should be longer than the cluster takes to replace a dead broker. 20 s.
	AnswerTimeout time.Duration
	// MaxBufferedBytes bounds what is published and not answered, all topics together; more is Unavailable at once. 64 MiB.
	MaxBufferedBytes int64

	// Protocol is how members of groups work with the cluster: ProtocolAuto, ProtocolClassic or ProtocolConsumer. auto.
	Protocol string
	// SessionTimeout is how long after its last sign of life a member of a group is taken for dead; the cluster's
	// group.min.session.timeout.ms is its lower bound. With ProtocolConsumer it is the cluster's
	// group.consumer.session.timeout.ms, whatever is said here. 10 s.
	SessionTimeout time.Duration
	// FetchBytes bounds one answer to a member, as it comes over the wire; one partition's share is a quarter of it. A
	// member holds at most two such answers per broker, and of each partition that is paused three quarters more; unpacked,
	// and with 256 bytes for each message, that is a multiple. 1 MiB.
	FetchBytes int32

	dial        func(ctx context.Context, network, host string) (net.Conn, error) // nil = the network
	metadataAge time.Duration                                                     // after which topics are looked at again; 15 s
}

func (c Config) withDefaults() Config {
	c.ClientID = cmp.Or(c.ClientID, "kateway")
	c.Compression = cmp.Or(c.Compression, "lz4")
	c.Log = cmp.Or(c.Log, slog.New(slog.DiscardHandler))
	c.Linger = cmp.Or(c.Linger, time.Millisecond)
	c.SendTimeout = cmp.Or(c.SendTimeout, 5*time.Second)
	c.AnswerTimeout = cmp.Or(c.AnswerTimeout, 20*time.Second)
	c.MaxBufferedBytes = cmp.Or(c.MaxBufferedBytes, 64<<20)
	c.Protocol = cmp.Or(c.Protocol, ProtocolAuto)
	c.SessionTimeout = cmp.Or(c.SessionTimeout, 10*time.Second)
	c.metadataAge = cmp.Or(c.metadataAge, 15*time.Second)
	c.FetchBytes = cmp.Or(c.FetchBytes, 1<<20)
	return c
}

// Validate reports every fault at once.
func (c Config) Validate() error {
	c = c.withDefaults()
	var faults []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	check(len(c.Brokers) > 0, "no Kafka broker is given: name at least one as host:port")
	for _, b := range c.Brokers {
		_, _, err := net.SplitHostPort(b)
		check(err == nil, "Kafka broker %q is not host:port", b)
	}
	if err := c.SASL.check(c.TLS != nil, c.Brokers); err != nil {
		faults = append(faults, err)
	}
	_, known := codec(c.Compression)
	check(known, "Kafka compression %q is none of none, gzip, snappy, lz4, zstd", c.Compression)
	check(c.Linger <= time.Second, "a linger of %v is over 1s", c.Linger)
	check(c.SendTimeout >= time.Second, "a send timeout of %v is under 1s", c.SendTimeout)
	check(c.AnswerTimeout >= c.SendTimeout, "an answer timeout of %v is under the send timeout of %v", c.AnswerTimeout, c.SendTimeout)
	check(c.MaxBufferedBytes >= 1<<20, "%d buffered bytes are under 1 MiB", c.MaxBufferedBytes)
	check(slices.Contains([]string{ProtocolAuto, ProtocolClassic, ProtocolConsumer}, c.Protocol),
		"Kafka group protocol %q is none of %s, %s, %s", c.Protocol, ProtocolAuto, ProtocolClassic, ProtocolConsumer)
	check(c.SessionTimeout >= 100*time.Millisecond, "a session timeout of %v is under 100ms", c.SessionTimeout)
	check(c.FetchBytes >= 64<<10, "fetches of %d bytes are under 64 KiB", c.FetchBytes)
	return errors.Join(faults...)
}

// codec is the compression of that name.
func codec(name string) (kgo.CompressionCodec, bool) {
	switch name {
	case "none":
		return kgo.NoCompression(), true
	case "gzip":
		return kgo.GzipCompression(), true
	case "snappy":
		return kgo.SnappyCompression(), true
	case "lz4":
		return kgo.Lz4Compression(), true
	case "zstd":
		return kgo.ZstdCompression(), true
	}
	return kgo.CompressionCodec{}, false
}

// Store is a store.Store.
type Store struct {
	cfg   Config
	log   *slog.Logger
	began time.Time // what times of progress count from: the wall clock may jump
	cl    *kgo.Client
	adm   *kadm.Client
	all   *producer

	topics     sync.Map // name -> *topic, of those that were published to
	learning   singleflight.Group
	buffered   atomic.Int64 // bytes published and not answered
	publishing atomic.Int64 // calls under way
	sendBy     atomic.Pointer[deadline]

	ctx    context.Context // ends when the store is closed
	cancel context.CancelFunc
	work   sync.WaitGroup // goroutines of the store itself

	mu        sync.Mutex
	closed    bool
	local     *producer
	feeds     map[*feed]struct{}
	instances map[instance]struct{} // names of members, held or about to be

	toldEviction atomic.Bool // that the cluster removes no members for us
}

var (
	_ store.Store     = (*Store)(nil)
	_ store.Describer = (*Store)(nil)
)

// Open makes a store on a cluster. Only a faulty configuration is an error: a cluster that can't be reached before ctx
// ends is logged, and used as soon as it can be.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Store{cfg: cfg.withDefaults(), began: time.Now(), feeds: map[*feed]struct{}{}, instances: map[instance]struct{}{}}
	s.log = s.cfg.Log
	s.ctx, s.cancel = context.WithCancel(context.Background())
	cl, err := kgo.NewClient(s.clientOpts()...)
	if err != nil {
		return nil, fmt.Errorf("kafka client: %w", err)
	}
	s.cl, s.adm = cl, kadm.NewClient(cl)
	if s.all, err = s.newProducer(store.AckAll); err != nil {
		s.cl.Close()
		return nil, err
	}
	if err := s.Ping(ctx); err != nil {
		s.log.Warn("kafka can't be reached yet", "brokers", s.cfg.Brokers, "error", err)
	}
	return s, nil
}

// clientOpts are the options that all clients share.
func (s *Store) clientOpts(more ...kgo.Opt) []kgo.Opt {
	opts := []kgo.Opt{
		kgo.SeedBrokers(s.cfg.Brokers...),
		kgo.ClientID(s.cfg.ClientID),
		kgo.WithLogger(clientLog{s.log}),
		kgo.DisableClientMetrics(),
		kgo.MetadataMinAge(100 * time.Millisecond),
		kgo.MetadataMaxAge(s.cfg.metadataAge),
		kgo.RetryBackoffFn(backoff),
	}
	return append(append(opts, s.linkOpts()...), more...)
}

// backoff is the wait before try n of the same request: 50 ms to 1 s, spread by a half.
func backoff(n int) time.Duration {
	d := min(50*time.Millisecond<<min(n, 10), time.Second)
	return d/2 + rand.N(d)/2
}

// now counts from the store's start, by the monotonic clock.
func (s *Store) now() time.Duration { return time.Since(s.began) }

// usable is nil while the store is open.
func (s *Store) usable() error {
	if s.ctx.Err() != nil {
		return store.ErrClosed
	}
	return nil
}

// Ping asks a broker for the cluster's state.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.usable(); err != nil {
		return err
	}
	if err := s.cl.Ping(ctx); err != nil {
		return s.failed("ping", err)
	}
	return nil
}

// Close lets publishes under way finish and members leave their groups until ctx ends, then ends what is left: such
// publishes are Uncertain, and such members leave by their session's timeout.
func (s *Store) Close(ctx context.Context) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return store.ErrClosed
	}
	s.closed = true
	var feeds []*feed
	for f := range s.feeds {
		feeds = append(feeds, f)
	}
	s.mu.Unlock()
	s.cancel()
	producers := s.producers()

	var wg sync.WaitGroup
	left := make([]error, len(feeds)+len(producers))
	for i, f := range feeds {
		wg.Go(func() { left[i] = f.Close(ctx) })
	}
	for i, p := range producers {
		wg.Go(func() { left[len(feeds)+i] = p.close(ctx) })
	}
	wg.Wait()
	s.cl.Close()
	s.work.Wait()
	return errors.Join(left...)
}

// failed says what a request other than a publish came to.
func (s *Store) failed(what string, err error) error {
	if s.ctx.Err() != nil && !errors.Is(err, store.ErrClosed) {
		return fmt.Errorf("%s: %w: %w", what, err, store.ErrClosed)
	}
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s: %w: %w", what, err, errs.Unavailable)
	}
	_, early := errors.AsType[*kgo.ErrFirstReadEOF](err)
	if s.cfg.SASL != nil && (early || errors.Is(err, io.EOF)) {
		return fmt.Errorf("%s: the broker hung up; does it take our credentials, and speak SASL there? %w: %w", what, err, kindOf(err))
	}
	return fmt.Errorf("%s: %w: %w", what, err, kindOf(err))
}

//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kateway/kateway/store"
	"github.com/kateway/kateway/store/embedded"
)

const floorSays = "floor listens on "

// floors is the process of all floors; each process is used for one.
type floors struct {
	dir   string
	sizes []int // of the chunks of /stream
	fan   fan
	frame []byte // that /ws sends
	mu    sync.Mutex
	ready map[string]func() error // what was opened: one publish of it
}

// serveFloors runs until it is killed.
func serveFloors(ctx context.Context, dir string) error {
	f := &floors{dir: dir, ready: map[string]func() error{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /publish", barePublish)
	mux.HandleFunc("POST /both", f.both)
	mux.HandleFunc("GET /idle", bareIdle)
	mux.HandleFunc("POST /sizes", f.setSizes)
	mux.HandleFunc("GET /stream", f.stream)
	mux.HandleFunc("GET /run", f.run)
	mux.HandleFunc("GET /consume", consume)
	mux.HandleFunc("POST /frame", f.setFrame)
	mux.HandleFunc("GET /ws", f.socket)
	mux.HandleFunc("GET /fan", f.fan.listen)
	mux.HandleFunc("POST /fan", f.fan.tell)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, floorSays+ln.Addr().String())
	p := new(http.Protocols)
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(true)
	return (&http.Server{Handler: mux, Protocols: p, ReadHeaderTimeout: time.Minute}).Serve(ln)
}

// barePublish is the least that a publish over net/http can be.
func barePublish(w http.ResponseWriter, r *http.Request) {
	if _, err := io.ReadAll(r.Body); err != nil {
		http.Error(w, err.Error(), 400)
		return
	}
	h := w.Header()
	h["X-Partition"], h["X-Offset"] = []string{"0"}, []string{"0"}
	w.WriteHeader(201)
}

// both is barePublish with the append in it: what the two cost when they share a process.
func (f *floors) both(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	publish, err := f.open(r.Context(), q.Get("what"), q.Get("brokers"))
	if err == nil {
		err = publish()
	}
	if err != nil {
		http.Error(w, err.Error(), 500)
		return
	}
	barePublish(w, r)
}

// bareIdle is a stream on which nothing comes.
func bareIdle(w http.ResponseWriter, r *http.Request) {
	_ = http.NewResponseController(w).Flush()
	<-r.Context().Done()
}

func (f *floors) setSizes(w http.ResponseWriter, r *http.Request) {
	f.sizes = nil
	if err := json.NewDecoder(r.Body).Decode(&f.sizes); err != nil {
		http.Error(w, err.Error(), 400)
	}
}

// stream writes from memory in chunks of the sizes that a gateway's stream had. It is always the same memory: a floor
// that also had to fetch the bytes would be a kinder one.
func (f *floors) stream(w http.ResponseWriter, _ *http.Request) {
	rc := http.NewResponseController(w)
	buf := letters(1 << 20)
	for _, n := range f.sizes {
		if _, err := w.Write(buf[:min(n, len(buf))]); err != nil {
			return
		}
		if err := rc.Flush(); err != nil {
			return
		}
	}
}

// run publishes without HTTP: what, on how many goroutines, for how long. It answers how many calls there were.
func (f *floors) run(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	workers, _ := strconv.Atoi(q.Get("workers"))
	d, _ := time.ParseDuration(q.Get("for"))
	publish, err := f.open(r.Context(), q.Get("what"), q.Get("brokers"))
	var calls atomic.Int64
	if err == nil {
		end := time.Now().Add(d)
		err = together(workers, func(int) error {
			for time.Now().Before(end) {
				if err := publish(); err != nil {
					return err
				}
				calls.Add(1)
			}
			return nil
		})
	}
	if err != nil {
		http.Error(w, err.Error(), 500)
		return
	}
	fmt.Fprint(w, calls.Load())
}

// open answers what publishes once, opened when it is first asked for.
func (f *floors) open(ctx context.Context, what, brokers string) (publish func() error, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ready[what] == nil {
		switch what {
		case "pebble":
			publish, err = openPebble(filepath.Join(f.dir, what))
		case "embedded":
			publish, err = openEmbedded(filepath.Join(f.dir, what))
		case "kafka":
			publish, err = openKafka(ctx, brokers)
		default:
			err = fmt.Errorf("no floor is called %q", what)
		}
		if err != nil {
			return nil, err
		}
		f.ready[what] = publish
	}
	return f.ready[what], nil
}

// openPebble is a synced append of 100 bytes, with the memtable and the compression of the embedded store.
func openPebble(dir string) (func() error, error) {
	opts := &pebble.Options{MemTableSize: 64 << 20, Logger: silent{}}
	opts.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionNone })
	db, err := pebble.Open(dir, opts)
	value := letters(100)
	var next atomic.Uint64
	return func() error {
		return db.Set(binary.BigEndian.AppendUint64(nil, next.Add(1)), value, pebble.Sync)
	}, err
}

type silent struct{}

func (silent) Infof(string, ...any)      {}
func (silent) Errorf(f string, a ...any) { fmt.Fprintf(os.Stderr, f+"\n", a...) }
func (silent) Fatalf(f string, a ...any) { panic(fmt.Sprintf(f, a...)) }

// openEmbedded is a durable publish of 1,000 messages of 100 bytes to the store as the gateway opens it.
func openEmbedded(dir string) (func() error, error) {
	ctx := context.Background()
	s, err := embedded.Open(embedded.Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	value := letters(100)
	return func() error {
		msgs, list := make([]store.Message, batchSize), make([]*store.Message, batchSize)
		for i := range msgs {
			msgs[i] = store.Message{Partition: store.AnyPartition, Value: value}
			list[i] = &msgs[i]
		}
		return s.Publish(ctx, "floor", store.AckAll, list...)
	}, s.CreateTopic(ctx, store.Topic{Name: "floor", Partitions: 1})
}

// openKafka is a produce of 100 bytes with acks of all replicas, as the gateway's client is set: linger 1 ms, lz4.
func openKafka(ctx context.Context, brokers string) (func() error, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(brokers, ",")...), kgo.ProducerLinger(time.Millisecond),
		kgo.ProducerBatchCompression(kgo.Lz4Compression(), kgo.NoCompression()), kgo.DisableClientMetrics())
	if err != nil {
		return nil, err
	}
	if _, err := kadm.NewClient(cl).CreateTopic(ctx, -1, -1, nil, "floor"); err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return nil, err
	}
	value := letters(100)
	return func() error {
		return cl.ProduceSync(context.Background(), &kgo.Record{Topic: "floor", Value: value}).FirstErr()
	}, nil
}

// consume reads so many messages of a topic from its start, and writes for each as many bytes as the gateway does.
func consume(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	left, _ := strconv.Atoi(q.Get("messages"))
	each, _ := strconv.Atoi(q.Get("each"))
	if err := consumed(r.Context(), w, q.Get("brokers"), q.Get("topic"), left, each); err != nil {
		panic(http.ErrAbortHandler) // the client sees that it is cut off
	}
}

func consumed(ctx context.Context, w http.ResponseWriter, brokers, topic string, left, each int) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(brokers, ",")...), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableClientMetrics())
	if err != nil {
		return err
	}
	defer cl.Close()
	rc := http.NewResponseController(w)
	pad := letters(max(0, each-100))
	buf := make([]byte, 0, 80<<10)
	for left > 0 {
		fetches := cl.PollFetches(ctx)
		if err := errors.Join(ctx.Err(), fetches.Err()); err != nil {
			return err
		}
		fetches.EachRecord(func(m *kgo.Record) {
			left--
			buf = append(append(buf, m.Value...), pad...)
			if len(buf) >= 64<<10 {
				_, err = w.Write(buf)
				buf = buf[:0]
			}
		})
		if len(buf) > 0 {
			_, err = w.Write(buf)
			buf = buf[:0]
		}
		if err := errors.Join(err, rc.Flush()); err != nil {
			return err
		}
	}
	return nil
}

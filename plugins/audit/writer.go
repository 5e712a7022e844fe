package audit

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/DeRuina/timberjack"

	"github.com/kateway/kateway/internal/seal"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/plugins"
	"github.com/kateway/kateway/store"
)

const (
	maxLine    = 256 << 10 // bytes of a line, the last of which is looked for at the start
	maxWrite   = 512 << 10 // bytes that are written at once: less than the smallest file
	lockEvery  = 20 * time.Millisecond
	maxKept    = 16 << 20 // bytes that the disk did not take
	topicQueue = 10_000   // records that wait for the topic; then the oldest are left to the file alone
	topicBatch = 500
	topicRest  = time.Second // before the topic is tried again
)

// writer appends sealed lines to the file, and hands them to the topic. One goroutine uses it.
type writer struct {
	name  string
	lock  *os.File // held while the log is ours: a process and the one that takes over from it are there at the same time
	file  *timberjack.Logger
	key   []byte
	chain *seal.Chain
	seq   int64
	buf   []byte // lines that are not in the file yet

	topic meta.Topic // zero: none
	meta  plugins.Meta
	store store.Publisher
	log   *slog.Logger

	mu      sync.Mutex
	more    chan struct{} // one token: there is something for the topic
	waiting [][]byte      // for the topic
	pending [][]byte      // the next to be published, in the hands of who does that
	skipped int
}

func newWriter(o Options, topic meta.Topic, e plugins.Env) (*writer, error) {
	name := o.File
	if name == "" {
		name = filepath.Join(e.Data, "audit.log")
	}
	for _, dir := range []string{e.Data, filepath.Dir(name)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	key, err := loadKey(filepath.Join(e.Data, "key"))
	if err != nil {
		return nil, err
	}
	if _, _, err := lastOf(name, false); err != nil {
		return nil, fmt.Errorf("audit log %s: %w", name, err)
	}
	lock, err := os.OpenFile(filepath.Join(e.Data, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	compression := "none"
	if o.Compress {
		compression = "gzip"
	}
	return &writer{
		name: name, lock: lock, key: key,
		file:  &timberjack.Logger{Filename: name, MaxSize: o.MaxSizeMB, MaxBackups: o.MaxFiles, MaxAge: o.MaxAgeDays, Compression: compression, FileMode: 0o600},
		topic: topic, meta: e.Meta, store: e.Store, log: e.Log, more: make(chan struct{}, 1),
	}, nil
}

// loadKey reads the key that lines are sealed with, or makes it.
func loadKey(name string) ([]byte, error) {
	key, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		key = make([]byte, seal.KeySize)
		_, _ = rand.Read(key) // never fails
		err = os.WriteFile(name, key, 0o600)
	}
	if err == nil && len(key) != seal.KeySize {
		err = fmt.Errorf("%s: %d bytes, and a key has %d", name, len(key), seal.KeySize)
	}
	return key, err
}

// acquire waits until the log is ours, and goes on behind its last line.
func (w *writer) acquire(ctx context.Context) error {
	for {
		err := syscall.Flock(int(w.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return err
		}
		t := time.NewTimer(lockEvery)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
	last, seq, err := lastOf(w.name, true)
	w.chain, w.seq = seal.New(w.key, last), seq
	return err
}

// lastOf is the seal and the number of the last whole line. One that was torn by a crash is cut off where that is asked for.
func lastOf(name string, cut bool) (sum []byte, seq int64, err error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, 0, err
	}
	tail := make([]byte, min(size, maxLine))
	if _, err := f.ReadAt(tail, size-int64(len(tail))); err != nil {
		return nil, 0, err
	}
	whole := bytes.LastIndexByte(tail, '\n') + 1
	if torn := len(tail) - whole; torn > 0 && cut {
		if err := f.Truncate(size - int64(torn)); err != nil {
			return nil, 0, err
		}
	}
	if whole == 0 {
		return nil, 0, nil
	}
	line := tail[bytes.LastIndexByte(tail[:whole-1], '\n')+1 : whole-1]
	object, sum, ok := seal.Split(line)
	var r record
	if !ok || json.Unmarshal(object, &r) != nil {
		return nil, 0, errors.New("its last line is none of a sealed log; name another file")
	}
	return sum, r.Seq, nil
}

// append seals a record. It is in the file after flush, or earlier.
func (w *writer) append(r *record) error {
	r.Seq = w.seq + 1
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	w.seq++
	at := len(w.buf)
	w.buf = w.chain.Append(w.buf, line)
	if w.topic != (meta.Topic{}) {
		w.offer(bytes.Clone(w.buf[at : len(w.buf)-1]))
	}
	if len(w.buf) >= 64<<10 {
		w.flush()
	}
	return nil
}

// flush writes what is sealed. Lines that the disk does not take are kept for the next time, up to a bound; then a gap in the
// numbers, and in the seals, tells of them.
func (w *writer) flush() {
	rest := w.buf
	for len(rest) > 0 {
		n := min(len(rest), maxWrite)
		n = bytes.LastIndexByte(rest[:n], '\n') + 1
		if _, err := w.file.Write(rest[:n]); err != nil {
			w.log.Error("the audit log can't be written", "error", err)
			break
		}
		rest = rest[n:]
	}
	if len(rest) > maxKept {
		rest = nil
	}
	w.buf = append(w.buf[:0], rest...)
}

// offer queues a line for the topic.
func (w *writer) offer(line []byte) {
	w.mu.Lock()
	if len(w.waiting) >= topicQueue {
		w.waiting = w.waiting[1:]
		w.skipped++
	}
	w.waiting = append(w.waiting, line)
	w.mu.Unlock()
	select {
	case w.more <- struct{}{}:
	default: // told already
	}
}

// start begins to publish to the topic; what it answers ends that, and closes the file.
func (w *writer) start() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	if w.topic != (meta.Topic{}) {
		wg.Go(func() { w.publish(ctx) })
	}
	return func() {
		if w.topic != (meta.Topic{}) {
			w.publishRest()
		}
		cancel()
		wg.Wait()
		if err := errors.Join(w.file.Close(), w.lock.Close()); err != nil {
			w.log.Error("closing the audit log", "error", err)
		}
	}
}

// publishRest gives the topic a moment for the last records.
func (w *writer) publishRest() {
	limit := time.NewTimer(slowClose)
	defer limit.Stop()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for {
		w.mu.Lock()
		n := len(w.waiting) + len(w.pending)
		w.mu.Unlock()
		if n == 0 {
			return
		}
		select {
		case <-look.C:
		case <-limit.C:
			w.log.Warn("audit records are in the file and not in the topic", "records", n)
			return
		}
	}
}

// publish publishes what waits for the topic, in order, until ctx ends. The file is what counts: what the topic does not take
// is tried again, and in the end left to it.
func (w *writer) publish(ctx context.Context) {
	for {
		select {
		case <-w.more:
		case <-ctx.Done():
			return
		}
		for w.publishSome(ctx) {
		}
	}
}

// publishSome publishes a batch; false when there is nothing left, or ctx ended.
func (w *writer) publishSome(ctx context.Context) bool {
	w.mu.Lock()
	if len(w.pending) == 0 {
		n := min(len(w.waiting), topicBatch)
		w.pending, w.waiting = w.waiting[:n:n], w.waiting[n:]
	}
	lines, skipped := w.pending, w.skipped
	w.skipped = 0
	w.mu.Unlock()
	if skipped > 0 {
		w.log.Warn("audit records are in the file and not in the topic", "records", skipped)
	}
	if len(lines) == 0 {
		return false
	}
	msgs := make([]*store.Message, len(lines))
	for i, line := range lines {
		msgs[i] = &store.Message{Value: line, Partition: store.AnyPartition, Headers: []store.Header{{Key: "content-type", Value: []byte("application/json")}}}
	}
	bounded, cancel := context.WithTimeout(ctx, 15*time.Second)
	err := w.store.Publish(bounded, place(w.meta.Snapshot(), w.topic), store.AckAll, msgs...)
	cancel()
	if err != nil {
		w.log.Warn("audit records can't be published; trying again", "topic", w.topic.String(), "error", err)
		t := time.NewTimer(topicRest)
		defer t.Stop()
		select {
		case <-t.C:
			return true
		case <-ctx.Done():
			return false
		}
	}
	w.mu.Lock()
	w.pending = nil
	w.mu.Unlock()
	return true
}

package schema

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/kateway/kateway/internal/errs"
	parsed "github.com/kateway/kateway/internal/schema"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/meta/mem"
	"github.com/kateway/kateway/plugins"
	"github.com/kateway/kateway/store"
)

var orders = meta.Topic{App: "shop", Name: "orders", Ver: "v1"}

const (
	ofOrder = `{"type":"object","required":["id"],"properties":{"id":{"type":"integer"}}}`
	ofAvro  = `{"type":"record","name":"r","fields":[{"name":"a","type":"int"},{"name":"b","type":"boolean"}]}`
	ofProto = `syntax = "proto3"; message A { int32 x = 1; } message B { string y = 1; }`
)

// world is a plugin over a directory that is written to.
type world struct {
	t   testing.TB
	dir *meta.Directory
	p   *Plugin
}

func newWorld(t testing.TB) *world {
	t.Helper()
	source := mem.New()
	dir := meta.NewDirectory(meta.Config{Source: source, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = dir.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		_ = source.Close()
	})
	<-dir.Loaded()
	return &world{t, dir, New(plugins.Env{Meta: dir, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})}
}

// put registers versions: of each its type and text; "" ends the schema.
func (w *world) put(t meta.Topic, versions ...[2]string) {
	w.t.Helper()
	for i, v := range versions {
		s := &meta.Schema{App: t.App, Name: t.Name, Ver: t.Ver, Version: i + 1, SchemaID: uint32(i + 1), Type: v[0], Text: v[1], Created: time.Now()}
		if v[0] != "" {
			s.Compatibility = "none"
		}
		if _, err := w.dir.Put(w.t.Context(), s, ""); err != nil {
			w.t.Fatal(err)
		}
	}
}

func call(op plugins.Op) *plugins.Call {
	return &plugins.Call{Op: op, App: "shop", Topic: orders.Name, Ver: orders.Ver}
}

// inspect is what becomes of a value that is published to orders.
func (w *world) inspect(value []byte) error {
	w.t.Helper()
	f := w.p.Inspection(call(plugins.Publish))
	if f == nil {
		w.t.Fatal("nothing is looked at")
	}
	m := plugins.Message{Message: store.Message{Value: value}, Topic: orders.Name, Ver: orders.Ver}
	return f(w.t.Context(), &m)
}

// framed is a payload in Confluent's wire format.
func framed(id uint32, payload string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, id), payload...)
}

func TestMessagesAreChecked(t *testing.T) {
	avroValue := "\x02\x01"
	for _, c := range []struct {
		name     string
		versions [][2]string
		value    []byte
		want     string // in the first fault; "": right
	}{
		{"right", [][2]string{{"json", ofOrder}}, []byte(`{"id":1}`), ""},
		{"wrong", [][2]string{{"json", ofOrder}}, []byte(`{}`), "/id is required"},
		{"tombstone", [][2]string{{"json", ofOrder}}, nil, ""},
		{"empty", [][2]string{{"json", ofOrder}}, []byte{}, "no JSON"},
		{"framed", [][2]string{{"json", ofOrder}}, framed(1, `{"id":1}`), ""},
		{"framed, wrong", [][2]string{{"json", ofOrder}}, framed(1, `{}`), "/id is required"},
		{"framed, no such", [][2]string{{"json", ofOrder}}, framed(2, `{"id":1}`), "its frame names the schema 2"},
		{"the newest counts", [][2]string{{"json", ofOrder}, {"json", `{"type":"string"}`}}, []byte(`{"id":1}`), "got object"},
		{"but one may name another", [][2]string{{"json", ofOrder}, {"json", `{"type":"string"}`}}, framed(1, `{"id":1}`), ""},
		{"no more", [][2]string{{"json", ofOrder}, {"", ""}}, []byte(`{}`), ""},
		{"avro", [][2]string{{"avro", ofAvro}}, []byte(avroValue), ""},
		{"avro, JSON", [][2]string{{"avro", ofAvro}}, []byte(`{"a":1,"b":true}`), "boolean"},
		{"avro, framed", [][2]string{{"avro", ofAvro}}, framed(1, avroValue), ""},
		{"avro, framed and wrong", [][2]string{{"avro", ofAvro}}, framed(1, "\x02\x09"), "/b 9 is no boolean"},
		{"avro, a zero byte at first", [][2]string{{"avro", `{"type":"array","items":"int"}`}}, []byte("\x00"), ""},
		{"avro, as a frame", [][2]string{{"avro", `{"type":"fixed","name":"f","size":6}`}}, []byte("\x00\x00\x00\x00\x09\x01"), ""},
		{"avro, neither", [][2]string{{"avro", `{"type":"fixed","name":"f","size":7}`}}, []byte("\x00\x00\x00\x00\x09\x01"), "its frame names the schema 9"},
		{"protobuf", [][2]string{{"protobuf", ofProto}}, []byte("\x08\x01"), ""},
		{"protobuf, the second message", [][2]string{{"protobuf", ofProto}}, framed(1, "\x02\x02\x0a\x01y"), ""},
		{"protobuf, no such message", [][2]string{{"protobuf", ofProto}}, framed(1, "\x02\x04"), "no message type"},
		{"protobuf, wrong", [][2]string{{"protobuf", ofProto}}, framed(1, "\x00\x0a\x01y"), "/x is written"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.put(orders, c.versions...)
			err := w.inspect(c.value)
			var faults *errs.Faults
			if (c.want == "") != (err == nil) {
				t.Fatal(err)
			}
			if err != nil && (!errors.As(err, &faults) || !errors.Is(err, errs.SchemaViolation) || !strings.Contains(faults.List[0].Path+" "+faults.List[0].Message, c.want)) {
				t.Errorf("%v, %+v", err, faults)
			}
		})
	}
}

func TestWhoIsNotChecked(t *testing.T) {
	w := newWorld(t)
	if w.p.Inspection(call(plugins.Publish)) != nil {
		t.Error("there is no schema")
	}
	w.put(orders, [2]string{"json", ofOrder})
	if w.p.Inspection(call(plugins.Subscribe)) != nil {
		t.Error("what is stored is not looked at")
	}
	f := w.p.Inspection(call(plugins.Publish))
	if err := f(t.Context(), &plugins.Message{Topic: "other", Ver: "v1"}); err != nil {
		t.Errorf("another topic: %v", err)
	}
	// A message that was sent elsewhere is what the schema there says.
	if err := f(t.Context(), &plugins.Message{Topic: "orders", Ver: "v1", Message: store.Message{Value: []byte("x")}}); !errors.Is(err, errs.SchemaViolation) {
		t.Error(err)
	}
}

// A WebSocket that is open when its topic gets a schema is checked from the next message on.
func TestSchemaOfAnOpenSocket(t *testing.T) {
	w := newWorld(t)
	c := call(plugins.Publish)
	c.Lasting = true
	f := w.p.Inspection(c)
	m := plugins.Message{Message: store.Message{Value: []byte("x")}, Topic: orders.Name, Ver: orders.Ver}
	if err := f(t.Context(), &m); err != nil {
		t.Fatal(err)
	}
	w.put(orders, [2]string{"json", ofOrder})
	if err := f(t.Context(), &m); !errors.Is(err, errs.SchemaViolation) {
		t.Error(err)
	}
}

// A schema that can't be used lets nothing pass, and what is told of it has nothing of the message.
func TestBrokenSchema(t *testing.T) {
	w := newWorld(t)
	w.put(orders, [2]string{"json", "{"})
	if err := w.inspect([]byte("secret")); !errors.Is(err, errs.Unavailable) || strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
	if n := testutil.ToFloat64(w.p.broken); n != 1 {
		t.Error(n)
	}
	w.put(orders, [2]string{"json", `{"const":"other"}`})
	if err := w.inspect([]byte(`"secret"`)); !errors.Is(err, errs.SchemaViolation) || strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
}

// What is kept ready is bounded, whatever is registered, and is right when many ask at once.
func TestReadySchemasAreBounded(t *testing.T) {
	w := newWorld(t)
	text := `{"type":"object","description":"` + strings.Repeat("x", 40<<10) + `"}`
	var wg sync.WaitGroup
	for i := range 2 * maxKept / len(text) {
		s := &meta.Schema{App: "shop", Name: fmt.Sprint("t", i), Ver: "v1", Version: 1, Type: "json", Text: text}
		for range 2 {
			wg.Go(func() {
				if r := w.p.get(s); r.err != nil || r.schema.Check([]byte("1")) == nil {
					t.Error(r.err)
				}
			})
		}
		if i%64 == 0 {
			wg.Wait()
		}
	}
	wg.Wait()
	sum := 0
	for s := range w.p.ready {
		sum += len(s.Text)
	}
	if sum != w.p.kept || sum > maxKept || sum == 0 {
		t.Errorf("%d bytes, %d are counted", sum, w.p.kept)
	}
}

func BenchmarkInspection(b *testing.B) {
	value := []byte(`{"id":123456,"name":"abcdef","tags":["a","b","c"]}`)
	b.Run("floor", func(b *testing.B) { // the library, with nothing around it
		s, err := parsed.Parse("json", ofOrder)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			if s.Check(value) != nil {
				b.Fatal("wrong")
			}
		}
	})
	b.Run("plugin", func(b *testing.B) {
		w := newWorld(b)
		w.put(orders, [2]string{"json", ofOrder})
		f := w.p.Inspection(call(plugins.Publish))
		m := plugins.Message{Message: store.Message{Value: value}, Topic: orders.Name, Ver: orders.Ver}
		b.ReportAllocs()
		for b.Loop() {
			if err := f(b.Context(), &m); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("no schema", func(b *testing.B) {
		w := newWorld(b)
		c := call(plugins.Publish)
		b.ReportAllocs()
		for b.Loop() {
			if w.p.Inspection(c) != nil {
				b.Fatal("inspected")
			}
		}
	})
}

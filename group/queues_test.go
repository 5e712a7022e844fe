package group

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/kateway/kateway/store"
)

// published is a message as the topic has it.
func published(headers ...store.Header) *store.Message {
	return &store.Message{Key: []byte("k"), Value: []byte("v"), Headers: headers, Partition: 3, Offset: 42, Time: time.UnixMilli(1_700_000_000_123)}
}

// stored is a message as it comes back from its queue.
func stored(m *store.Message, offset int64) *store.Message {
	c := m.Clone()
	c.Partition, c.Offset, c.Time = 0, offset, time.UnixMilli(1_800_000_000_000)
	return c
}

func headerText(m *store.Message) string {
	var out []string
	for _, h := range m.Headers {
		out = append(out, h.Key+"="+string(h.Value))
	}
	return strings.Join(out, " ")
}

func TestHeadersOfMovedMessages(t *testing.T) {
	m := move{msg: published(store.Header{Key: "a", Value: []byte("1")}), attempts: 16, cause: "lease ended", dead: true}
	const dead = "a=1 kateway-origin-partition=3 kateway-origin-offset=42 kateway-origin-time=1700000000123 kateway-attempts=16 kateway-cause=lease ended"
	if got := headerText(m.message()); got != dead {
		t.Errorf("dead:\n%s, want\n%s", got, dead)
	}
	m.dead, m.due = false, time.UnixMilli(1_700_000_099_000)
	if got, want := headerText(m.message()), dead+" kateway-due=1700000099000"; got != want {
		t.Errorf("retry:\n%s, want\n%s", got, want)
	}
	if got := m.message(); got.Partition != store.AnyPartition || !got.Time.IsZero() {
		t.Errorf("published to partition %d at %v", got.Partition, got.Time)
	}
	if len(m.msg.Headers) != 1 {
		t.Errorf("the window's message was written to: %s", headerText(m.msg))
	}
	m.due = time.Time{}
	if got := headerText(m.message()); !strings.HasSuffix(got, " kateway-due=0") {
		t.Errorf("due at once: %s", got)
	}
}

func TestOrigin(t *testing.T) {
	m := move{msg: published(), attempts: 5, cause: "it is \xff bad", due: time.UnixMilli(1_700_000_099_000)}
	want := OriginInfo{Partition: 3, Offset: 42, Time: time.UnixMilli(1_700_000_000_123), Attempts: 5, Cause: "it is  bad", Due: m.due}
	if o, ok := Origin(stored(m.message(), 7)); !ok || o != want {
		t.Errorf("retry: %+v, %v", o, ok)
	}
	m.dead, want.Due = true, time.Time{}
	if o, ok := Origin(stored(m.message(), 7)); !ok || o != want {
		t.Errorf("dead: %+v, %v", o, ok)
	}
}

// What the publisher calls as we do is the publisher's.
func TestHeadersOfThePublisherLikeOurs(t *testing.T) {
	once := move{msg: published(), attempts: 9, cause: "one", due: time.UnixMilli(1)}
	for name, headers := range map[string][]store.Header{
		"a whole set":         once.message().Headers,
		"a set without due":   once.message().Headers[:len(marks)],
		"the first alone":     once.message().Headers[:1],
		"due alone":           {{Key: HeaderDue, Value: []byte("5")}},
		"due, no number":      {{Key: HeaderDue, Value: []byte("x")}},
		"cause, then another": {{Key: HeaderCause, Value: []byte("x")}, {Key: "z"}},
	} {
		for _, dead := range []bool{false, true} {
			m := move{msg: published(headers...), attempts: 2, cause: "two", due: time.UnixMilli(77), dead: dead}
			back, attempts, _, ok := origin(stored(m.message(), 7))
			if !ok || attempts != 2 || !reflect.DeepEqual(back, m.msg) {
				t.Errorf("%s, dead %v: %+v after %d, %v; want %+v", name, dead, back, attempts, ok, m.msg)
			}
		}
	}
}

func TestMessagesThatNoGroupMoved(t *testing.T) {
	whole := (&move{msg: published(), attempts: 9, cause: "one", due: time.UnixMilli(1)}).message().Headers
	change := func(i int, key, value string) []store.Header {
		h := append([]store.Header{}, whole...)
		h[i] = store.Header{Key: key, Value: []byte(value)}
		return h
	}
	for name, headers := range map[string][]store.Header{
		"none":               nil,
		"others":             {{Key: "a"}, {Key: "b"}, {Key: "c"}, {Key: "d"}, {Key: "e"}, {Key: "f"}},
		"the first is gone":  whole[1:],
		"one behind":         append(append([]store.Header{}, whole...), store.Header{Key: "z"}),
		"due, no number":     change(5, HeaderDue, "soon"),
		"partition below 0":  change(0, HeaderOriginPartition, "-1"),
		"partition too high": change(0, HeaderOriginPartition, "2147483648"),
		"offset below 0":     change(1, HeaderOriginOffset, "-1"),
		"offset with a plus": change(1, HeaderOriginOffset, "+1"),
		"offset with zeros":  change(1, HeaderOriginOffset, "007"),
		"time empty":         change(2, HeaderOriginTime, ""),
		"too many attempts":  change(3, HeaderAttempts, "4294967296"),
		"another name":       change(3, "kateway-tries", "1"),
	} {
		m := stored(published(headers...), 7)
		if o, ok := Origin(m); ok {
			t.Errorf("%s: %+v", name, o)
		}
		if back, attempts, due, ok := origin(m); ok || back != m || attempts != 0 || !due.IsZero() {
			t.Errorf("%s: %+v, %d, %v, %v", name, back, attempts, due, ok)
		}
	}
}

// Kafka's messages without a time have one below zero.
func TestOriginWithoutATime(t *testing.T) {
	m := published()
	m.Time = time.UnixMilli(-1)
	if o, ok := Origin((&move{msg: m, dead: true}).message()); !ok || !o.Time.Equal(m.Time) {
		t.Errorf("%+v, %v", o, ok)
	}
}

func TestCauseIsCut(t *testing.T) {
	m := move{msg: published(), cause: strings.Repeat("ä", 200), dead: true}
	if o, ok := Origin(m.message()); !ok || o.Cause != strings.Repeat("ä", 128) {
		t.Errorf("%d bytes: %q, %v", len(o.Cause), o.Cause, ok)
	}
	m.cause = "x" + m.cause
	if o, ok := Origin(m.message()); !ok || len(o.Cause) != 255 || !utf8.ValidString(o.Cause) {
		t.Errorf("%d bytes: %q, %v", len(o.Cause), o.Cause, ok)
	}
}

func TestRedo(t *testing.T) {
	was := published(store.Header{Key: "a", Value: []byte("1")})
	dead := stored((&move{msg: was, attempts: 16, cause: "nacked", dead: true}).message(), 5)
	before := dead.Clone()
	again := Redo(dead)
	if !reflect.DeepEqual(dead, before) {
		t.Errorf("the dead one was changed: %+v", dead)
	}
	if again.Partition != store.AnyPartition || !again.Time.IsZero() {
		t.Errorf("to partition %d at %v", again.Partition, again.Time)
	}
	back, attempts, due, ok := origin(stored(again, 9))
	if !ok || attempts != 0 || due.IsZero() || due.After(time.Now()) || !reflect.DeepEqual(back, was) {
		t.Errorf("%+v after %d, due %v, %v", back, attempts, due, ok)
	}
	if o, _ := Origin(again); o.Cause != "nacked" {
		t.Errorf("cause %q", o.Cause)
	}
}

// Somebody put a message of his own into the dead queue.
func TestRedoOfAStranger(t *testing.T) {
	m := stored(published(store.Header{Key: HeaderCause, Value: []byte("own")}), 5)
	back, _, _, ok := origin(stored(Redo(m), 9))
	if !ok || !reflect.DeepEqual(back, m) {
		t.Errorf("%+v, %v; want %+v", back, ok, m)
	}
}

// Whatever the message and whatever happened to it: it comes back as it was published.
func TestMoveThereAndBack(t *testing.T) {
	bytesOrNil := rapid.OneOf(rapid.SliceOf(rapid.Byte()), rapid.Just([]byte(nil)))
	name := rapid.OneOf(rapid.String(), rapid.SampledFrom(append(marks[:], HeaderDue)))
	header := rapid.Custom(func(t *rapid.T) store.Header {
		return store.Header{Key: name.Draw(t, "name"), Value: bytesOrNil.Draw(t, "value")}
	})
	rapid.Check(t, func(t *rapid.T) {
		m := &store.Message{
			Key: bytesOrNil.Draw(t, "key"), Value: bytesOrNil.Draw(t, "value"), Headers: rapid.SliceOf(header).Draw(t, "headers"),
			Partition: rapid.Int32Min(0).Draw(t, "partition"), Offset: rapid.Int64Min(0).Draw(t, "offset"),
			Time: time.UnixMilli(rapid.Int64Range(-1, 1<<42).Draw(t, "time")),
		}
		v := &move{msg: m, attempts: rapid.Uint32().Draw(t, "attempts"), cause: rapid.String().Draw(t, "cause"), dead: rapid.Bool().Draw(t, "dead")}
		for range rapid.IntRange(1, 4).Draw(t, "times") {
			back, attempts, _, ok := origin(stored(v.message(), 1))
			same := ok && attempts == v.attempts && bytes.Equal(back.Key, m.Key) && (back.Key == nil) == (m.Key == nil) &&
				bytes.Equal(back.Value, m.Value) && (back.Value == nil) == (m.Value == nil) && len(back.Headers) == len(m.Headers) &&
				back.Partition == m.Partition && back.Offset == m.Offset && back.Time.Equal(m.Time)
			for i := 0; same && i < len(m.Headers); i++ {
				same = back.Headers[i].Key == m.Headers[i].Key && bytes.Equal(back.Headers[i].Value, m.Headers[i].Value)
			}
			if !same {
				t.Fatalf("%+v came back as %+v, %d attempts, %v", m, back, attempts, ok)
			}
			v.msg, v.dead = back, !v.dead
		}
	})
}

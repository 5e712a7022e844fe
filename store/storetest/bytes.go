package storetest

import (
	"bytes"
	"fmt"
	"time"

	"github.com/kateway/kateway/store"
)

func byteTests() []test {
	return []test{
		{name: "BytesAreKept", run: bytesAreKept},
		{name: "BytesMayBeScribbledOn", run: bytesMayBeScribbledOn},
		{name: "TimeIsKept", run: timeIsKept},
	}
}

// bytesAreKept: nothing of a message is changed on its way, neither to Browse nor to a feed.
func bytesAreKept(e *env) {
	topic := e.topic(3)
	m := e.join(e.s, topic, name("group"), store.Start{})
	m.max = 1000
	want := specimens()
	var published []*store.Message
	for i, w := range want {
		w.Partition = int32(i % 3)
		published = append(published, w.Clone())
	}
	e.publish(topic, published...)

	for i, w := range want {
		got := e.browse(topic, w.Partition, published[i].Offset)
		if len(got) == 0 {
			e.Fatalf("offset %d of partition %d is not there", published[i].Offset, w.Partition)
		}
		if d := diff(w, got[0]); d != "" {
			e.Errorf("specimen %d, browsed: %s", i, d)
		}
	}
	left := len(want)
	deadline := time.Now().Add(e.cfg.Patience)
	for left > 0 && time.Now().Before(deadline) {
		b, err := m.f.Poll(e.ctx(), m.max, nil)
		e.must(err)
		for _, got := range b.Messages {
			i := int(got.Offset)*3 + int(got.Partition)
			if d := diff(want[i], got); d != "" {
				e.Errorf("specimen %d, polled: %s", i, d)
			}
			left--
		}
	}
	if left != 0 {
		e.Errorf("%d messages did not come", left)
	}
}

// specimens are messages at the edges of what a record can be.
func specimens() []*store.Message {
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	many := &store.Message{Value: []byte("64 headers")}
	for i := range 64 {
		many.Headers = append(many.Headers, store.Header{Key: fmt.Sprint("h", i%5), Value: fmt.Append(nil, i)})
	}
	list := []*store.Message{
		{},
		{Key: []byte{}, Value: []byte{}},
		{Key: []byte("tombstone")},
		{Key: []byte{}},
		{Value: []byte{}},
		{Key: []byte("k"), Value: []byte("v"), Headers: []store.Header{{Key: "", Value: []byte("no name")}, {Key: "empty", Value: []byte{}}, {Key: "nil"}}},
		{Headers: []store.Header{{Key: "b", Value: []byte("1")}, {Key: "a", Value: []byte("2")}, {Key: "b", Value: []byte("3")}, {Key: "b", Value: []byte("3")}}},
		{Key: every, Value: every, Headers: []store.Header{{Key: "every byte", Value: every}, {Key: "ключ\u2028", Value: every}}},
		{Value: []byte("\xff\xfe not UTF-8"), Headers: []store.Header{{Key: string(bytes.Repeat([]byte("n"), 1000))}}},
		{Key: bytes.Repeat(every, 16), Value: bytes.Repeat(every, 2048)}, // 512 KiB
		many,
	}
	for _, b := range every {
		list = append(list, &store.Message{Key: []byte{b}, Value: []byte{b}, Headers: []store.Header{{Key: "h", Value: []byte{b}}}})
	}
	return list
}

// bytesMayBeScribbledOn: by the publisher afterwards, and by the reader of Browse.
func bytesMayBeScribbledOn(e *env) {
	topic := e.topic(3)
	fresh := func() *store.Message {
		return &store.Message{Partition: 1, Key: []byte("key"), Value: []byte("value"), Headers: []store.Header{{Key: "name", Value: []byte("header")}}}
	}
	a, b := fresh(), fresh()
	e.publish(topic, a, b)
	scribble(a)
	e.publish(topic, text(1, "one more"))
	scribble(b)
	for round := range 2 {
		list := e.browse(topic, 1, 0)
		for i, got := range list[:2] {
			if d := diff(fresh(), got); d != "" {
				e.Errorf("message %d, round %d: %s", i, round, d)
			}
		}
		for _, got := range list {
			scribble(got)
		}
	}
	m := e.join(e.s, topic, name("group"), store.Start{})
	m.read(3)
	if m.values[0] != "value" || m.values[1] != "value" || m.values[2] != "one more" {
		e.Errorf("a feed got %q", m.values)
	}
}

// timeIsKept: to the millisecond, and in the outcome too; the store's own is the present.
func timeIsKept(e *env) {
	topic := e.topic(3)
	began := time.Now().Truncate(time.Millisecond)
	given := time.Date(2021, 3, 4, 5, 6, 7, 123_456_789, time.UTC)
	a, b := text(0, "given"), text(0, "present")
	a.Time = given
	e.publish(topic, a, b)
	list := e.browse(topic, 0, 0)
	for i, m := range []*store.Message{a, list[0]} {
		if !m.Time.Equal(given.Truncate(time.Millisecond)) {
			e.Errorf("time %v became %v (browsed: %t)", given, m.Time, i == 1)
		}
	}
	const skew = time.Minute // the store's clock may be another machine's
	if t := b.Time; t.Before(began.Add(-skew)) || t.After(time.Now().Add(skew)) || t.Nanosecond()%1e6 != 0 {
		e.Errorf("a message without a time got %v", t)
	}
	if !list[1].Time.Equal(b.Time) {
		e.Errorf("the outcome said %v, stored is %v", b.Time, list[1].Time)
	}
}

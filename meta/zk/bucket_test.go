package zk

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/meta"
)

func TestBucketsAreEven(t *testing.T) {
	count := map[string]int{}
	for i := range 100_000 {
		count[bucketOf(meta.ID{Kind: meta.KindTopic, Name: fmt.Sprintf("app%d.topic%d.v1", i%500, i)})]++
	}
	if len(count) != manyBuckets {
		t.Errorf("%d buckets are used", len(count))
	}
	for name, n := range count {
		if n > 200 || !bucketRule.MatchString(name) {
			t.Errorf("bucket %s has %d of 100,000 objects", name, n)
		}
	}
}

// Where an object lies must be the same in all versions.
func TestBucketsAreStable(t *testing.T) {
	for id, want := range map[meta.ID]string{
		{Kind: meta.KindApp, Name: "shop"}:              "0a9",
		{Kind: meta.KindTopic, Name: "shop.orders.v1"}:  "153",
		{Kind: meta.KindOption, Name: "log_level"}:      "000",
		{Kind: meta.KindSchema, Name: "shop.orders.v1"}: "153",
		{Kind: meta.KindSecret, Name: "peer"}:           "000",
	} {
		if got := bucketOf(id); got != want {
			t.Errorf("%s lies in bucket %s, it was %s", id, got, want)
		}
	}
}

func TestBucketComesBack(t *testing.T) {
	objects := map[string][]byte{"a": []byte(`{"n":1e400,"s":"<\u0000>"}`), "b.c": []byte(`{}`)}
	for _, text := range [][]byte{
		encodeBucket(objects),
		[]byte(`{"objects" : { "b.c":{ }, "a": {"n" : 1e400, "s":"<\u0000>"} }, "format": 1, "comment": "by hand"}`),
	} {
		got, err := decodeBucket(meta.KindSecret, "000", text, nil)
		if err != nil || len(got) != 2 || !bytes.Equal(got["a"], objects["a"]) || !bytes.Equal(got["b.c"], objects["b.c"]) {
			t.Errorf("%q, %v", got, err)
		}
	}
	if got, err := decodeBucket(meta.KindSecret, "000", encodeBucket(nil), nil); err != nil || got == nil || len(got) != 0 {
		t.Errorf("an empty bucket: %q, %v", got, err)
	}
}

// Of what has not changed the bytes stay those that everybody else has already.
func TestBucketShares(t *testing.T) {
	first, err := decodeBucket(meta.KindSecret, "000", []byte(`{"format":1,"objects":{"a":{"n":1},"b":{"n":2}}}`), nil)
	if err != nil {
		t.Fatal(err)
	}
	raw := []byte(`{"format":1,"objects":{"a":{"n":1},"b":{"n":3},"c":{"n" : 4}}}`)
	next, err := decodeBucket(meta.KindSecret, "000", raw, first)
	if err != nil || len(next) != 3 {
		t.Fatal(next, err)
	}
	clear(raw)
	if &next["a"][0] != &first["a"][0] {
		t.Error("a was copied")
	}
	if string(next["b"]) != `{"n":3}` || string(next["c"]) != `{"n":4}` {
		t.Errorf("%q", next)
	}
	if string(first["b"]) != `{"n":2}` {
		t.Errorf("what was known is overwritten: %q", first)
	}
}

func TestGather(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Source{}
		began := time.Now()
		for range 5 {
			if at := s.gathered().Sub(began); at != gather {
				t.Errorf("what changes after %v is read after %v", time.Since(began), at)
			}
			<-time.After(gather / 5)
		}
		<-time.After(1)
		if in := time.Until(s.gathered()); in != gather {
			t.Errorf("what changes after that is read in %v", in)
		}
	})
}

func TestBucketThatIsNone(t *testing.T) {
	for text, kind := range map[string]error{
		``: errs.InvalidBody, `null`: errs.InvalidBody, `{}`: errs.InvalidBody, `[]`: errs.InvalidBody, "\x00\xff": errs.InvalidBody,
		`{"format":2,"objects":{}}`:                         errs.InvalidBody,
		`{"format":1,"objects":[]}`:                         errs.InvalidBody,
		`{"format":1,"objects":{"a":1}}`:                    errs.InvalidBody,
		`{"format":1,"objects":{"a":null}}`:                 errs.InvalidBody,
		`{"format":1,"objects":{"a":{},"a":{}}}`:            errs.InvalidBody,
		`{"format":1,"objects":{"../a":{}}}`:                errs.InvalidName,
		`{"format":1,"objects":{"a":{"x":1,"x":2}}}`:        errs.InvalidBody,
		`{"format":1,"objects":{"a":{}}`:                    errs.InvalidBody,
		`{"format":1,"objects":{}}x`:                        errs.InvalidBody,
		`{"format":1,"objects":{"` + "\xff" + `":{}}}`:      errs.InvalidBody,
		strings.Repeat(" ", maxRead) + `{"format":1}`:       errs.TooLarge,
		strings.Repeat(`{"format":1,"objects":`, 100_000):   errs.InvalidBody,
		`{"format":1,"objects":{"a":{"b":"` + "\n" + `"}}}`: errs.InvalidBody,
	} {
		if got, err := decodeBucket(meta.KindSecret, "000", []byte(text), nil); !errors.Is(err, kind) {
			t.Errorf("%.60q: %.60q, %v; want %v", text, got, err, kind)
		}
	}
	if _, err := decodeBucket(meta.KindApp, "001", []byte(`{"format":1,"objects":{"shop":{}}}`), nil); !errors.Is(err, errs.InvalidBody) {
		t.Errorf("an object of another bucket: %v", err)
	}
}

// Whatever lies in a node, reading it is an error or gives objects that are written back as they were.
func FuzzDecodeBucket(f *testing.F) {
	f.Add([]byte(`{"format":1,"objects":{"a":{"n":1},"b":{}}}`))
	f.Add([]byte(`{"format":1,"objects":{"a" : {"n":[1, 2,{"x":"\ud83d\ude00"}]}}}`))
	f.Add([]byte(`{"format":2}`))
	f.Add([]byte("\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		objects, err := decodeBucket(meta.KindSecret, "000", data, nil)
		if err != nil {
			return
		}
		again, err := decodeBucket(meta.KindSecret, "000", encodeBucket(objects), nil)
		if err != nil || len(again) != len(objects) {
			t.Fatalf("%q became %q, %v", objects, again, err)
		}
		for name, object := range objects {
			if !bytes.Equal(again[name], object) {
				t.Errorf("%s: %q became %q", name, object, again[name])
			}
			if err := (meta.Change{ID: meta.ID{Kind: meta.KindSecret, Name: name}, Data: object}).Check(nil); err != nil && len(object) <= meta.MaxObject {
				t.Errorf("%s: read, but could not be written: %v", name, err)
			}
		}
	})
}

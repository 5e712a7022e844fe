package sub

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// decoder reads what came with this Content-Encoding.
func decoder(tb testing.TB, encoding string, r io.Reader) io.Reader {
	tb.Helper()
	switch encoding {
	case "":
		return r
	case "gzip":
		d, err := gzip.NewReader(r)
		if err != nil {
			tb.Fatal(err)
		}
		d.Multistream(false) // as most clients read it
		return d
	case "zstd":
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(d.Close)
		return d
	}
	tb.Fatalf("Content-Encoding %q", encoding)
	return nil
}

func decoded(tb testing.TB, res *http.Response, body string) string {
	tb.Helper()
	b, err := io.ReadAll(decoder(tb, res.Header.Get("Content-Encoding"), strings.NewReader(body)))
	if err != nil {
		tb.Fatal(err)
	}
	return string(b)
}

// Every chunk can be read as soon as it came, also after silence, and the whole ends in good order.
func TestCodersFlushEachChunk(t *testing.T) {
	for _, coding := range []coding{gzipped, zstandard} {
		c := newCoder(coding, &sync.Pool{})
		var read bytes.Buffer
		var all []byte
		for i := range 100 {
			src := fmt.Appendf(nil, "chunk %d %s", i, strings.Repeat("x", i*i))
			add := c.add
			if i%7 == 3 {
				add = c.rest
			}
			coded, err := add(nil, src)
			if err != nil {
				t.Fatal(err)
			}
			read.Write(coded)
			all = append(all, src...)
			got := make([]byte, len(all))
			d := decoder(t, coding.String(), bytes.NewReader(read.Bytes()))
			if _, err := io.ReadFull(d, got); err != nil || !bytes.Equal(got, all) {
				t.Fatalf("%v: after chunk %d: %v, %d bytes", coding, i, err, len(got))
			}
		}
		coded, err := c.end(nil)
		if err != nil {
			t.Fatal(err)
		}
		read.Write(coded)
		if got, err := io.ReadAll(decoder(t, coding.String(), &read)); err != nil || !bytes.Equal(got, all) {
			t.Errorf("%v: whole: %v, %d bytes of %d", coding, err, len(got), len(all))
		}
		if again, err := c.end(nil); err != nil || len(again) > 0 {
			t.Errorf("%v: a second end: %q %v", coding, again, err)
		}
	}
}

func TestCodersOfNothing(t *testing.T) {
	for _, coding := range []coding{gzipped, zstandard} {
		b, err := newCoder(coding, &sync.Pool{}).end(nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(decoder(t, coding.String(), bytes.NewReader(b))); err != nil || len(got) > 0 {
			t.Errorf("%v: %q %v", coding, got, err)
		}
	}
	if newCoder(identity, nil) != nil {
		t.Error("identity has a coder")
	}
}

// An encoder that goes back to the pool takes nothing of its stream along.
func TestCodersShareNothing(t *testing.T) {
	pool := &sync.Pool{}
	for i := range 50 {
		c := newCoder(zstandard, pool)
		src := bytes.Repeat([]byte{byte(i)}, 10_000)
		b, err := c.add(nil, src)
		if err != nil {
			t.Fatal(err)
		}
		if b, err = c.end(b); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(decoder(t, "zstd", bytes.NewReader(b))); err != nil || !bytes.Equal(got, src) {
			t.Fatalf("stream %d: %v", i, err)
		}
	}
}

func TestPollsAreCompressedWhereAsked(t *testing.T) {
	w := newWorld(t, 1)
	c := serve(t, w.mux, false)
	value := strings.Repeat("all work and no play ", 500)
	w.publish(value, value)
	for _, encoding := range []string{"gzip", "zstd"} {
		raw := c.get(topicPath+"?group=raw"+encoding, "Accept-Encoding: "+encoding).want(t, 200)
		if raw.Header.Get("Content-Encoding") != encoding || raw.ContentLength != int64(len(raw.body)) || len(raw.body) > len(value)/4 {
			t.Errorf("%s: %v, %d bytes", encoding, raw.Header, len(raw.body))
		}
		if decoded(t, raw.Response, raw.body) != value {
			t.Errorf("%s: raw body is not what was stored", encoding)
		}
		many := c.get(topicPath+"?batch=2&group=many"+encoding, "Accept-Encoding: "+encoding).want(t, 200)
		if list := objects(t, decoded(t, many.Response, many.body)); len(list) != 2 || list[1].text() != value {
			t.Errorf("%s: %d objects", encoding, len(list))
		}
	}
	if r := c.get(topicPath+"?group=gzip204&reset=newest&wait=0s", "Accept-Encoding: gzip").want(t, 204); r.Header.Get("Content-Encoding") != "" {
		t.Errorf("204 is coded: %v", r.Header)
	}
}

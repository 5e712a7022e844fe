package pub

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/kateway/kateway/internal/wire"
	"github.com/kateway/kateway/store"
)

type results struct {
	Results []struct {
		Partition int32
		Offset    int64
		Error     *struct {
			Status int
			Code   string
			Detail string
		}
	}
}

func parseResults(t *testing.T, a answered) (r results) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.body), &r); err != nil {
		t.Fatalf("%s: %v", a.body, err)
	}
	return r
}

func TestBatches(t *testing.T) {
	const js = "Content-Type: application/json"
	for _, c := range []struct {
		name, query, body string
		head              []string
		want              []string
	}{
		{"lines", "lines", "a\nb\r\n\n\r\nc", nil, []string{"~||a", "~||b", "~||c"}},
		{"lines keep what is no line end", "lines", "a\rb\n c \nd\r", nil, []string{"~||a\rb", "~|| c ", "~||d\r"}},
		{"lines with key and headers", "lines&key=k", "a\nb", []string{"X-Tag: x", "Content-Type: text/plain"},
			[]string{"k|content-type=text/plain tags=x|a", "k|content-type=text/plain tags=x|b"}},
		{"array", "array", ` ["a\n\u00e9", {"x": 1.0}, 12345678901234567890, [ ], true, null, ""] `, nil,
			[]string{"~||a\né", `~||{"x": 1.0}`, "~||12345678901234567890", "~||[ ]", "~||true", "~||null", "~||"}},
		{"array says JSON", "array", `["1",1]`, []string{js, "X-Tag: x"}, []string{"~|tags=x|1", "~|content-type=application/json tags=x|1"}},
		{"array says something else", "array", `["1",1]`, []string{"Content-Type: a/b"}, []string{"~|content-type=a/b|1", "~|content-type=a/b|1"}},
		{"frames", "frames", "\x00\x00\x00\x02ab\x00\x00\x00\x00\x00\x00\x00\x01\n", nil, []string{"~||ab", "~||", "~||\n"}},
		{"objects", "objects", `{"value":"a"}` + "\r\n\n" + `{"key":"k","headers":{"content-type":"t","h":["1","2"]},"value":{"a": 1}}` + "\n" + `{"value":null}` + "\n" + `{"value_base64":"AP8="}`,
			[]string{"Content-Type: application/x-ndjson"}, []string{"~||a", `k|content-type=t h=1 h=2|{"a": 1}`, "~||~", "~||\x00\xff"}},
		{"objects with defaults", "objects&key=d&partition=1", `{"value":"a","headers":{"tags":"own"}}` + "\n" + `{"key":"k","value":"b"}`,
			[]string{"X-Tag: x", "X-Msg-A: 1"}, []string{"d|tags=own a=1|a", "k|a=1 tags=x|b"}},
		{"objects that were consumed", "objects", string(wire.AppendObject(nil, &store.Message{Partition: 0, Offset: 9, Key: []byte("k"), Value: []byte("v")}, wire.Extra{Topic: "a/b/c", Attempt: 2, Receipt: []byte("r")})),
			nil, []string{"k||v"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGateway(t, nil)
			query := c.query
			if !strings.Contains(c.query, "partition") {
				query += "&partition=0"
			}
			a := g.post(t, "/v1/msgs/t/v1?batch="+query, strings.NewReader(c.body), c.head...)
			got := g.stored(t, "default.t.v1")
			if a.status != 201 || !slices.Equal(shows(got), c.want) {
				t.Fatalf("%d %s\nstored %q\nwant   %q", a.status, a.body, shows(got), c.want)
			}
			for i, r := range parseResults(t, a).Results {
				if r.Partition != got[i].Partition || r.Offset != got[i].Offset || r.Error != nil {
					t.Errorf("message %d is at %d/%d, the answer says %+v", i, got[i].Partition, got[i].Offset, r)
				}
			}
		})
	}
}

func TestBadBatchStoresNothing(t *testing.T) {
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	for _, c := range []struct{ format, body, text string }{
		{"lines", "", "empty"},
		{"lines", "\n\r\n", "empty"},
		{"frames", "", "empty"},
		{"frames", "\x00\x00\x00\x01a\x00", "frame 2"},
		{"frames", "\x00\x00\x00\x01a\x00\x00\x00\x02b", "frame 2"},
		{"frames", "\xff\xff\xff\xff", "frame 1"},
		{"array", "", "array"},
		{"array", "[]", "empty"},
		{"array", `{"a":1}`, "array"},
		{"array", `["a","b"`, "EOF"},
		{"array", `["a","b"] x`, "follows"},
		{"array", `["a",{"b":1,"b":2}]`, "duplicate"},
		{"array", `["a",{"b":{"c":1,"\u0063":2}}]`, "duplicate"},
		{"array", `["a",` + deep(32) + `]`, "33 deep"},
		{"array", deep(100_000), "deep"},
		{"array", "[\"\xff\"]", "UTF-8"},
		{"objects", "", "empty"},
		{"objects", `{"value":"a"}` + "\n" + `{"value":"b"`, "line 2"},
		{"objects", `{"value":"a"}` + "\n\n" + `{"key":"k"}`, "line 3: value is missing"},
		{"objects", `{"value":"a","value":"b"}`, "duplicate"},
		{"objects", `{"value":"a","value_base64":"Yg=="}`, "exclude"},
		{"objects", `{"value":"a","valeu":"b"}`, `unknown field \"valeu\"`},
		{"objects", `{"value":` + deep(32) + `}`, "33 deep"},
		{"objects", `{"value":"a"} {"value":"b"}`, "follows"},
	} {
		t.Run(fmt.Sprintf("%s %.30q", c.format, c.body), func(t *testing.T) {
			g := newGateway(t, nil)
			a := g.post(t, "/v1/msgs/t/v1?batch="+c.format, strings.NewReader(c.body))
			if a.status != 400 || a.code() != "invalid_body" || !strings.Contains(a.body, c.text) {
				t.Errorf("%d %s, want %q", a.status, a.body, c.text)
			}
			if n := len(g.stored(t, "default.t.v1")); n > 0 {
				t.Errorf("%d messages stored", n)
			}
		})
	}
}

func TestBatchPartlyStored(t *testing.T) {
	g := newGateway(t, nil)
	body := `{"partition":0,"value":"a"}` + "\n" + `{"partition":9,"value":"b"}` + "\n" + `{"partition":1,"value":"c"}`
	a := g.post(t, "/v1/msgs/t/v1?batch=objects", strings.NewReader(body))
	r := parseResults(t, a).Results
	if a.status != http.StatusMultiStatus || len(r) != 3 || r[0].Error != nil || r[1].Error == nil || r[2].Error != nil || r[2].Partition != 1 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if e := r[1].Error; e.Status != 400 || e.Code != "invalid_param" || !strings.Contains(e.Detail, "partition") {
		t.Errorf("%+v", e)
	}
	if got := shows(g.stored(t, "default.t.v1")); !slices.Equal(got, []string{"~||a", "~||c"}) {
		t.Errorf("stored %q", got)
	}
}

// Every byte value must come through the key, the tags, a header and the value, and through each way in that can carry it.
func TestEveryByteValue(t *testing.T) {
	var all, carried []byte // the latter is what a header's value can carry
	for i := range 256 {
		all = append(all, byte(i))
		if i == '\t' || i >= ' ' && i != 0x7f {
			carried = append(carried, byte(i))
		}
	}
	carried = append(append([]byte("!"), carried...), '!') // HTTP drops space around
	g := newGateway(t, nil)
	must := func(a answered) {
		t.Helper()
		if a.status != 201 {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	must(g.post(t, "/v1/msgs/head/v1?key="+url.QueryEscape(string(all)), strings.NewReader(string(all)),
		"X-Tag: "+string(carried), "X-Msg-H: "+string(carried)))
	b64 := base64.StdEncoding.EncodeToString(all)
	must(g.post(t, "/v1/msgs/objects/v1?batch=objects", strings.NewReader(
		fmt.Sprintf(`{"key_base64":%q,"headers_base64":{"tags":%q,"h":%q},"value_base64":%q}`, b64, b64, b64, b64))))

	check := func(topic string, inHeaders []byte) *store.Message {
		t.Helper()
		got := g.stored(t, topic)
		if len(got) != 1 {
			t.Fatalf("%s: %d messages", topic, len(got))
		}
		m := got[0]
		want := map[string]string{"tags": string(inHeaders), "h": string(inHeaders)}
		for _, h := range m.Headers {
			if want[h.Key] != string(h.Value) {
				t.Errorf("%s: header %s is %q", topic, h.Key, h.Value)
			}
			delete(want, h.Key)
		}
		if !bytes.Equal(m.Key, all) || !bytes.Equal(m.Value, all) || len(want) > 0 {
			t.Errorf("%s: %q", topic, show(m))
		}
		return m
	}
	check("default.head.v1", carried)
	m := check("default.objects.v1", all)

	m.Partition = 0
	must(g.post(t, "/v1/msgs/again/v1?batch=objects", strings.NewReader(string(wire.AppendObject(nil, m, wire.Extra{})))))
	check("default.again.v1", all)
}

func FuzzSplit(f *testing.F) {
	f.Add(uint8(formatLines), []byte("a\r\n\nb"))
	f.Add(uint8(formatFrames), []byte("\x00\x00\x00\x01a"))
	f.Add(uint8(formatArray), []byte(`["a",1]`))
	f.Add(uint8(formatObjects), []byte(`{"value":"a"}`))
	h := &Handler{limits: Limits{Message: 100, Messages: 10}.withDefaults()}
	f.Fuzz(func(t *testing.T, kind uint8, body []byte) {
		s := &slab{body: body}
		if err := h.split(&request{format: format(kind % 5), partition: store.AnyPartition}, s); err != nil {
			return
		}
		if n := len(s.refs); n == 0 || n > 10 || n != len(s.messages) {
			t.Fatalf("%d messages of %q", n, body)
		}
		for i, m := range s.refs {
			if m != &s.messages[i] || len(m.Value) > 100 && kind%5 != 0 || m.Value == nil && format(kind%5) != formatObjects {
				t.Fatalf("message %d of %q: %+v", i, body, m)
			}
		}
	})
}

package sub

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kateway/kateway/store"
)

func TestBadRequestsSayWhatIsWrong(t *testing.T) {
	w := newWorld(t, 1)
	c := serve(t, w.mux, false)
	cases := []struct {
		path, header, code, says string
	}{
		{topicPath, "", "invalid_param", "group is required"},
		{topicPath + "?group=", "", "invalid_param", "group is required"},
		{topicPath + "?group=a.b", "", "invalid_name", "group"},
		{"/v1/msgs/a_b/orders/v1?group=g", "", "invalid_name", "app"},
		{"/v1/msgs/shop/or.ders/v1?group=g", "", "invalid_name", "topic"},
		{"/v1/msgs/shop/orders/v_1?group=g", "", "invalid_name", "version"},
		{"/v1/msgs/shop/or.ders/v1", "", "invalid_name", "topic"}, // names come before parameters
		{topicPath + "?group=g&group=h", "", "invalid_param", "2 times"},
		{topicPath + "?group=g&colour=red", "", "invalid_param", `"colour"`},
		{topicPath + "?group=g&mode=stack", "", "invalid_param", "fifo, queue, key"},
		{topicPath + "?group=g&tag=", "", "invalid_param", "tag"},
		{topicPath + "?group=g&tag=,%20%3B", "", "invalid_param", "tag"},
		{topicPath + "?group=g&tag=" + strings.Join(manyTags(), ","), "", "invalid_param", "32 tags"},
		{topicPath + "?group=g&tag=a", "X-Tag: a", "invalid_param", "X-Tag"},
		{topicPath + "?group=g&filter=", "", "invalid_param", "filter"},
		{topicPath + "?group=g&q=new", "", "invalid_param", "retry, dead"},
		{topicPath + "?group=g&reset=yesterday", "", "invalid_param", "newest"},
		{topicPath + "?group=g&reset=", "", "invalid_param", "newest"},
		{topicPath + "?group=g&ack=maybe", "", "invalid_param", "explicit"},
		{topicPath + "?group=g&lease=13h", "", "invalid_param", "12h"},
		{topicPath + "?group=g&lease=0", "", "invalid_param", "lease"},
		{topicPath + "?group=g&wait=301", "", "invalid_param", "wait"},
		{topicPath + "?group=g&wait=-1s", "", "invalid_param", "wait"},
		{topicPath + "?group=g&batch=0", "", "invalid_param", "batch"},
		{topicPath + "?group=g&batch=1001", "", "invalid_param", "batch"},
		{topicPath + "?group=g&client=a%20b", "", "invalid_name", "client"},
		{topicPath + "?group=g&client=", "", "invalid_name", "client"},
		{topicPath + "?group=g&value=hex", "", "invalid_param", "base64"},
		{topicPath + "?group=g&batch=2&value=base64", "Accept: application/octet-stream", "invalid_param", "base64"},
		{topicPath + "?group=g&prefetch=3", "", "invalid_param", "prefetch"}, // belongs to streams
		{topicPath + "?group=g", "Appid: a_b", "invalid_name", "app"},
		{topicPath + "?group=g&wait=0s", "X-Receipt: " + strings.Repeat("x,", 100) + "x", "invalid_param", "101 receipts"},
		{feedPath + "?group=g&batch=3", "", "invalid_param", "batch"},
		{feedPath + "?group=g&prefetch=0", "", "invalid_param", "prefetch"},
		{feedPath + "?group=g&prefetch=1001", "", "invalid_param", "prefetch"},
		{feedPath + "?group=g&limit=0", "", "invalid_param", "limit"},
		{feedPath + "?group=g&limit=x", "", "invalid_param", "limit"},
		{feedPath + "?group=g&value=base64", "Accept: text/plain", "invalid_param", "base64"},
		{feedPath, "", "invalid_param", "group is required"},
	}
	for _, k := range cases {
		var header []string
		if k.header != "" {
			header = append(header, k.header)
		}
		if detail := c.get(k.path, header...).problem(t, 400, k.code); !strings.Contains(detail, k.says) {
			t.Errorf("%s: %q does not say %q", k.path, detail, k.says)
		}
	}
	if groups, err := w.store.Groups(t.Context(), topicName); err != nil || len(groups) > 0 {
		t.Errorf("a refused request made a group: %v %v", groups, err)
	}
}

func manyTags() (tags []string) {
	for i := range 33 {
		tags = append(tags, strconv.Itoa(i))
	}
	return tags
}

// Tags are a set, wherever they stand.
func TestTagsAreASet(t *testing.T) {
	for _, k := range []struct{ query, header string }{{"&tag=b,a,b", ""}, {"&tag=%20a%20%3Bb", ""}, {"", "a;b"}, {"", "b, a"}} {
		r := httptest.NewRequest(http.MethodGet, "/?group=g"+k.query, nil)
		if k.header != "" {
			r.Header.Set("X-Tag", k.header)
		}
		w := new(pollWish)
		if err := w.read(r); err != nil || !slices.Equal(w.settings.Tags, []string{"a", "b"}) {
			t.Errorf("%s %s: %v, %v", k.query, k.header, w.settings.Tags, err)
		}
	}
}

func TestHeadersGivenTwiceAreRefused(t *testing.T) {
	c := serve(t, newWorld(t, 1).mux, false)
	c.get(topicPath+"?group=g", "Appid: a", "Appid: b").problem(t, 400, "invalid_param")
	c.get(topicPath+"?group=g", "X-Receipt: a", "X-Receipt: b").problem(t, 400, "invalid_param")
	c.get(topicPath+"?group=g&wait=0s", "Accept: text/html", "Accept: */*").want(t, 204)
}

func TestASubscribeRequestWithABodyIsRefused(t *testing.T) {
	c := serve(t, newWorld(t, 1).mux, false)
	c.whole(http.MethodGet, topicPath+"?group=g", "x").problem(t, 400, "invalid_body")
}

func TestLimitsAreAllowed(t *testing.T) {
	c := serve(t, newWorld(t, 1).mux, false)
	c.get(topicPath+"?group=g&wait=0&batch=1000&lease=12h&client=me&reset=oldest&mode=fifo&ack=explicit&value=base64&cursor=any").want(t, 204)
	c.get(topicPath+"?group=g&wait=0&lease=100ms&reset=2026-11-23T10:00:00%2B01:00", "Last-Event-ID: any").want(t, 204)
}

func TestResetIsReadStrictly(t *testing.T) {
	parse := func(query string) *pollWish {
		t.Helper()
		r := httptest.NewRequest(http.MethodGet, "/?group=g"+query, nil)
		w := new(pollWish)
		if err := w.read(r); err != nil {
			t.Fatal(err)
		}
		return w
	}
	if s := parse("").start; s != (store.Start{}) {
		t.Errorf("default: %+v, want the oldest", s)
	}
	if s := parse("&reset=newest").start; !s.Newest {
		t.Errorf("newest: %+v", s)
	}
	want := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	if s := parse("&reset=2026-11-23T10:00:00Z").start; !s.Since.Equal(want) || s.Newest {
		t.Errorf("time: %+v", s)
	}
	if w := parse(""); w.wait != 30*time.Second || w.lease != 30*time.Second || w.batch != 1 || w.explicit {
		t.Errorf("defaults: %+v", w)
	}
}

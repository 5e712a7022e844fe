package manager_test

import (
	"context"
	"errors"
	"iter"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/manager"
	"github.com/kateway/kateway/store"
)

func TestPeek(t *testing.T) {
	f := withOrders(t, nil)
	f.seek(billing, 3, 3)
	for query, want := range map[string]string{
		"":                         "0/0 0/1 0/2 0/3 0/4 1/0 1/1 1/2 1/3 1/4",
		"?n=3":                     "0/0 0/1 1/0",
		"?n=1":                     "0/0",
		"?partition=1&n=2":         "1/0 1/1",
		"?partition=1&offset=8":    "1/8 1/9",
		"?partition=0&offset=10":   "",
		"?partition=0&offset=999":  "",
		"?offset=9":                "0/9 1/9",
		"?partition=0&n=1000":      "0/0 0/1 0/2 0/3 0/4 0/5 0/6 0/7 0/8 0/9",
		"?partition=0&offset=7&n=": "invalid",
	} {
		r := f.ask("GET", "/v1/peek/shop/orders/v1"+query, "")
		if want == "invalid" {
			r.problem(t, errs.InvalidParam)
			continue
		}
		b := r.want(t, 200)
		var got []string
		for i, p := range b.names(t, "partition") {
			got = append(got, p+"/"+b.names(t, "offset")[i])
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %s, not %s", query, got, want)
		}
	}
	if got := f.must(200, "GET", "/v1/peek/shop/orders/v1?n=1", "").names(t, "value"); got[0] != "message 0" {
		t.Errorf("value %v", got)
	}
	if got := f.positions(billing); got != "3 3" {
		t.Errorf("a group was moved to %s", got)
	}
}

// What one partition does not have is for the others.
func TestPeekOfUnevenPartitions(t *testing.T) {
	f := withShop(t, nil)
	f.must(201, "POST", "/v1/topics", `{"app":"shop","topic":"orders","ver":"v1","partitions":3}`)
	for range 9 {
		if err := f.store.Publish(t.Context(), "shop.orders.v1", store.AckAll, &store.Message{Partition: 2}); err != nil {
			t.Fatal(err)
		}
	}
	if got := f.must(200, "GET", "/v1/peek/shop/orders/v1?n=8", "").names(t, "offset"); len(got) != 8 {
		t.Errorf("peeked %v", got)
	}
}

func TestPeekFaults(t *testing.T) {
	f := withOrders(t, nil)
	const path = "/v1/peek/shop/orders/v1"
	f.ask("GET", path+"?partition=2", "").problem(t, errs.InvalidParam, "0 to 1")
	f.ask("GET", path+"?partition=-1", "").problem(t, errs.InvalidParam)
	f.ask("GET", path+"?offset=-1", "").problem(t, errs.InvalidParam)
	f.ask("GET", path+"?n=1001", "").problem(t, errs.InvalidParam)
	f.ask("GET", path+"?n=0", "").problem(t, errs.InvalidParam)
	f.ask("GET", path+"?group=g", "").problem(t, errs.InvalidParam, "group")
	f.ask("GET", "/v1/peek/shop/none/v1", "").problem(t, errs.UnknownTopic)
	f.ask("GET", "/v1/peek/shop/a.b/v1", "").problem(t, errs.InvalidName)
}

// failingStore gives a few messages of 48 KiB as JSON and then an error.
type failingStore struct {
	manager.Store
	good int
}

func (s failingStore) Browse(context.Context, string, int32, int64) iter.Seq2[*store.Message, error] {
	return func(yield func(*store.Message, error) bool) {
		for range s.good {
			if !yield(&store.Message{Value: make([]byte, 8<<10)}, nil) {
				return
			}
		}
		yield(nil, errs.Unavailable)
	}
}

// An error before anything is out is answered; after that the answer must not look whole.
func TestPeekThatBreaksOff(t *testing.T) {
	broken := func(good int) *fixture {
		return withOrders(t, func(c *manager.Config) { c.Store = failingStore{c.Store, good} })
	}
	broken(0).ask("GET", "/v1/peek/shop/orders/v1", "").problem(t, errs.Unavailable)
	broken(1).ask("GET", "/v1/peek/shop/orders/v1?n=1000", "").problem(t, errs.Unavailable)
	defer func() {
		if p, ok := recover().(error); !ok || !errors.Is(p, http.ErrAbortHandler) {
			t.Errorf("the connection was not cut: %v", p)
		}
	}()
	r := httptest.NewRequest(http.MethodGet, "/v1/peek/shop/orders/v1?n=1000", nil)
	r.Header.Set("Authorization", "Bearer "+adminKey)
	broken(3).router.ServeHTTP(httptest.NewRecorder(), r)
	t.Error("answered as if it were whole")
}

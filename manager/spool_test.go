package manager_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/manager"
	"github.com/kateway/kateway/store"
)

// fakeSpool has n messages set aside.
type fakeSpool struct {
	status store.SpoolStatus
	asides []store.Aside
}

func (f *fakeSpool) SpoolStatus() store.SpoolStatus { return f.status }

func (f *fakeSpool) Asides(_ context.Context, after uint64, max int) (list []store.Aside, _ error) {
	for _, a := range f.asides {
		if a.ID > after && len(list) < max {
			list = append(list, a)
		}
	}
	return list, nil
}

func (f *fakeSpool) Requeue(ctx context.Context, ids ...uint64) (int, error) {
	return f.Discard(ctx, ids...)
}

func (f *fakeSpool) Discard(_ context.Context, ids ...uint64) (int, error) {
	before := len(f.asides)
	f.asides = slices.DeleteFunc(f.asides, func(a store.Aside) bool { return len(ids) == 0 || slices.Contains(ids, a.ID) })
	return before - len(f.asides), nil
}

// text is what is answered with 200.
func (f *fixture) text(method, path, body string) string {
	f.t.Helper()
	r := f.ask(method, path, body)
	r.want(f.t, 200)
	return r.Body.String()
}

func TestSpool(t *testing.T) {
	spool := &fakeSpool{status: store.SpoolStatus{On: true, Messages: 3, Bytes: 100, Limit: 1000, Oldest: time.Unix(1700000000, 0), Late: true, Aside: 250,
		Topics: []store.SpoolTopic{{Topic: "shop.orders.v1", Messages: 3, Bytes: 60, Oldest: time.Unix(1700000000, 0), Err: errs.Unavailable}}}}
	for i := range 250 {
		spool.asides = append(spool.asides, store.Aside{ID: uint64(i + 1), Topic: "shop.orders.v1", At: time.Unix(1700000001, 0), Code: "too_large", Cause: "it \"is\" too large",
			Message: &store.Message{Key: []byte("k"), Value: fmt.Append(nil, i), Time: time.Unix(1700000000, 0)}})
	}
	f := newFixture(t, func(c *manager.Config) { c.Spool = spool })
	if body := f.text("GET", "/v1/spool", ""); body != `{"state":"ok","messages":3,"bytes":100,"max_bytes":1000,"oldest":"2023-11-14T22:13:20Z","late":true,"aside":250,`+
		`"topics":[{"topic":"shop.orders.v1","messages":3,"bytes":60,"oldest":"2023-11-14T22:13:20Z","error":"Unavailable"}]}`+"\n" {
		t.Error(body)
	}
	body := f.text("GET", "/v1/spool/aside?limit=2", "")
	if strings.Count(body, `"cause":"it \"is\" too large"`) != 2 || !strings.Contains(body, `"next":"2"`) || !strings.Contains(body, `"value":"0"`) {
		t.Error(body)
	}
	if body := f.text("GET", "/v1/spool/aside?limit=1000&after=2", ""); strings.Count(body, `"id":`) != 248 || strings.Contains(body, `"next"`) {
		t.Error(body)
	}
	f.ask("GET", "/v1/spool/aside?after=x", "").problem(t, errs.InvalidParam, "after")
	if body := f.text("POST", "/v1/spool/aside/requeue", `{"ids":[1,2,1000]}`); body != "{\"requeued\":2}\n" {
		t.Error(body)
	}
	if body := f.text("DELETE", "/v1/spool/aside", `{"ids":[]}`); body != "{\"discarded\":0}\n" {
		t.Error(body)
	}
	if body := f.text("DELETE", "/v1/spool/aside", `{}`); body != "{\"discarded\":248}\n" {
		t.Error(body)
	}
}

func TestNoSpool(t *testing.T) {
	f := newFixture(t, nil)
	if body := f.text("GET", "/v1/spool", ""); !strings.HasPrefix(body, `{"state":"off",`) {
		t.Error(body)
	}
	f.must(200, "GET", "/v1/spool/aside", "")
	f.ask("POST", "/v1/spool/aside/requeue", `{}`).problem(t, errs.NotFound)
}

func TestSpoolStates(t *testing.T) {
	for _, c := range []struct {
		status store.SpoolStatus
		want   string
	}{
		{store.SpoolStatus{On: true, Limit: 1}, "ok"},
		{store.SpoolStatus{Limit: 1}, "off"},
		{store.SpoolStatus{On: true, Limit: 1, Bytes: 1, Fault: errs.Unavailable}, "full"},
		{store.SpoolStatus{On: true, Limit: 1, Fault: errs.DiskFull}, "full"},
		{store.SpoolStatus{On: true, Limit: 1, Fault: errs.Unavailable}, "failed"},
	} {
		if got := manager.SpoolStateOf(c.status).State; got != c.want {
			t.Errorf("%+v: %s, want %s", c.status, got, c.want)
		}
	}
}

package httpx_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/httpx"
)

func query(t *testing.T, raw string, known ...string) (httpx.Query, error) {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.URL.RawQuery = raw
	return httpx.ParseQuery(r, known...)
}

func TestParseQuery(t *testing.T) {
	for raw, ok := range map[string]bool{
		"":            true,
		"key=a":       true,
		"key=":        true,
		"key":         true,
		"key=a&ack=b": true,
		"key=a&key=a": false,
		"Key=a":       false,
		"other=a":     false,
		"key=%zz":     false,
		"key=a;ack=b": false,
		"key=a&":      true,
		"key=a&k%65y": false, // twice, once encoded
	} {
		_, err := query(t, raw, "key", "ack")
		if (err == nil) != ok || err != nil && errs.Of(err) != errs.InvalidParam {
			t.Errorf("%q: %v", raw, err)
		}
	}
}

func TestQueryValues(t *testing.T) {
	q, err := query(t, "n=7&d=90&f=1&s=b&empty=", "n", "d", "f", "s", "empty", "absent")
	if err != nil {
		t.Fatal(err)
	}
	if !q.Has("empty") || q.Has("absent") || q.Get("s") != "b" {
		t.Error("Has or Get")
	}
	if n, err := q.Int("n", 1, 0, 7); n != 7 || err != nil {
		t.Errorf("Int %d, %v", n, err)
	}
	if n, err := q.Int("absent", 5, 0, 1); n != 5 || err != nil {
		t.Errorf("Int of none %d, %v", n, err)
	}
	if d, err := q.Duration("d", 0, 0, time.Hour); d != 90*time.Second || err != nil {
		t.Errorf("Duration %v, %v", d, err)
	}
	if d, err := q.Duration("absent", time.Second, 0, 0); d != time.Second || err != nil {
		t.Errorf("Duration of none %v, %v", d, err)
	}
	if f, err := q.Flag("f"); !f || err != nil {
		t.Errorf("Flag %v, %v", f, err)
	}
	if f, err := q.Flag("absent"); f || err != nil {
		t.Errorf("Flag of none %v, %v", f, err)
	}
	if s, err := q.OneOf("s", "a", "b"); s != "b" || err != nil {
		t.Errorf("OneOf %q, %v", s, err)
	}
	if s, err := q.OneOf("absent", "a", "b"); s != "a" || err != nil {
		t.Errorf("OneOf of none %q, %v", s, err)
	}
}

func TestQueryValuesOutOfBounds(t *testing.T) {
	q, err := query(t, "n=8&x=eight&neg=-1&d=2h&e=&f=yes&big=99999999999999999999", "n", "x", "neg", "d", "e", "f", "big")
	if err != nil {
		t.Fatal(err)
	}
	for name, call := range map[string]func() error{
		"above":        func() error { _, err := q.Int("n", 0, 0, 7); return err },
		"no number":    func() error { _, err := q.Int("x", 0, 0, 7); return err },
		"below":        func() error { _, err := q.Int("neg", 0, 0, 7); return err },
		"too big":      func() error { _, err := q.Int("big", 0, 0, 7); return err },
		"empty number": func() error { _, err := q.Int("e", 0, 0, 7); return err },
		"too long":     func() error { _, err := q.Duration("d", 0, 0, time.Hour); return err },
		"no duration":  func() error { _, err := q.Duration("x", 0, 0, time.Hour); return err },
		"no flag":      func() error { _, err := q.Flag("f"); return err },
		"no choice":    func() error { _, err := q.OneOf("f", "a", "b"); return err },
	} {
		if err := call(); errs.Of(err) != errs.InvalidParam {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestHeader(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header["X-Twice"] = []string{"a", "b"}
	r.Header["X-Once"] = []string{"a"}
	if v, err := httpx.Header(r, "x-once"); v != "a" || err != nil {
		t.Errorf("%q, %v", v, err)
	}
	if v, err := httpx.Header(r, "X-None"); v != "" || err != nil {
		t.Errorf("%q, %v", v, err)
	}
	if _, err := httpx.Header(r, "X-Twice"); errs.Of(err) != errs.InvalidParam {
		t.Errorf("%v", err)
	}
}

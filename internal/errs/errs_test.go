package errs

import (
	"context"
	"errors"
	"fmt"
	"testing"
)

func TestEveryKindHasARow(t *testing.T) {
	codes := map[string]Kind{}
	for k := range kinds {
		if k.Status() < 400 || k.Code() == "" || k.Title() == "" {
			t.Errorf("kind %d: incomplete row %+v", k, table[k])
		}
		if other, twice := codes[k.Code()]; twice {
			t.Errorf("code %q stands for %d and %d", k.Code(), other, k)
		}
		codes[k.Code()] = k
		if got, known := ByCode(k.Code()); !known || got != k {
			t.Errorf("ByCode(%q) = %d, %v", k.Code(), got, known)
		}
		if s := k.Status(); (s == 429 || s == 503) != (k.RetryAfter() > 0) {
			t.Errorf("%s: Retry-After belongs to 429 and 503, and only to them", k.Code())
		}
	}
}

func TestOf(t *testing.T) {
	cases := []struct {
		err  error
		want Kind
	}{
		{fmt.Errorf("topic %q: %w", "t", UnknownTopic), UnknownTopic},
		{fmt.Errorf("waiting: %w", context.DeadlineExceeded), Uncertain},
		{context.Canceled, Uncertain},
		{errors.New("anything"), Internal},
		{errors.Join(errors.New("first"), TooLarge), TooLarge},
	}
	for _, c := range cases {
		if got := Of(c.err); got != c.want {
			t.Errorf("Of(%v) = %s, want %s", c.err, got.Code(), c.want.Code())
		}
	}
}

func TestByCodeOfNone(t *testing.T) {
	for _, code := range []string{"", "Internal", "of_tomorrow"} {
		if k, known := ByCode(code); known {
			t.Errorf("ByCode(%q) = %s", code, k.Code())
		}
	}
}

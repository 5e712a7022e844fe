package pub

import (
	"context"
	"strings"
	"testing"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// TestSpooledAnswers: what a client is told of messages that were spooled, alone and among others.
func TestSpooledAnswers(t *testing.T) {
	var fate []string
	spool := publisher(func(ctx context.Context, _ string, _ store.Ack, msgs ...*store.Message) error {
		b := &store.BatchError{Errs: make([]error, len(msgs))}
		failed := false
		for i, m := range msgs {
			switch f := fate[i%len(fate)]; {
			case f == "spooled" && !store.MaySpool(ctx):
				b.Errs[i], failed = errs.Unavailable, true
			case f == "spooled":
				m.Offset = store.Spooled
			case f == "stored":
				m.Partition, m.Offset = 1, 7
			default:
				b.Errs[i], failed = errs.Uncertain, true
			}
		}
		if failed {
			return b
		}
		return nil
	})
	g := newGateway(t, func(c *Config) { c.Store = spool })
	for _, c := range []struct {
		fate, query, body string
		status            int
		spooled, want     string
	}{
		{"spooled", "", "v", 202, "1", "{\"spooled\":true}\n"},
		{"stored", "", "v", 201, "", "{\"partition\":1,\"offset\":7}\n"},
		{"spooled", "?hh=n", "v", 503, "", ""},
		{"stored,spooled", "?batch=lines", "a\nb", 202, "1", `{"results":[{"partition":1,"offset":7},{"spooled":true}]}` + "\n"},
		{"spooled", "?batch=lines", "a\nb", 202, "1", `{"results":[{"spooled":true},{"spooled":true}]}` + "\n"},
		{"spooled,lost", "?batch=lines", "a\nb", 207, "1", ""},
		{"stored,lost", "?batch=lines", "a\nb", 207, "", ""},
		{"lost", "?batch=lines", "a\nb", 504, "", ""},
	} {
		fate = strings.Split(c.fate, ",")
		a := g.post(t, "/v1/msgs/t/v1"+c.query, strings.NewReader(c.body))
		if a.status != c.status || a.header.Get("X-Spooled") != c.spooled || c.want != "" && a.body != c.want {
			t.Errorf("%s %s: %d, X-Spooled %q, %s", c.fate, c.query, a.status, a.header.Get("X-Spooled"), a.body)
		}
	}
}

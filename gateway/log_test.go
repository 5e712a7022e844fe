package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode"
)

// One line stays one line, whatever a client puts into a value, and a terminal that shows it does nothing.
func TestLogOfHostileValues(t *testing.T) {
	hostile := []string{
		"a\r\nlevel=ERROR msg=forged", "\x1b[2J\x1b]0;title\x07", "\x00", "\x7f", "\u0085", "\u009b31m", "\u2028\u2029", "\u202ereversed",
		"%s%n", "\xff\xfe", strings.Repeat("x", 5000), "\"}\n{\"level\":\"ERROR\"}", "\ufeff",
	}
	for _, format := range []string{"text", "json"} {
		for _, value := range hostile {
			var b bytes.Buffer
			log := NewLogger(&b, slog.LevelInfo, format)
			log.Info("m", "s", value, "e", errors.New(value), "l", []string{value}, "h", http.Header{"X": {value}})
			line := b.String()
			if strings.Count(line, "\n") != 1 || !strings.HasSuffix(line, "\n") {
				t.Errorf("%s: %q is no line", format, line)
			}
			if i := strings.IndexFunc(strings.TrimSuffix(line, "\n"), func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
				t.Errorf("%s: unprintable at %d of %q", format, i, line)
			}
			if len(line) > 5*maxField {
				t.Errorf("%s: %d bytes", format, len(line))
			}
			if format == "json" && !json.Valid(b.Bytes()) {
				t.Errorf("no JSON: %s", line)
			}
		}
	}
}

func TestLogKeepsWhatIsHarmless(t *testing.T) {
	var b bytes.Buffer
	NewLogger(&b, slog.LevelInfo, "json").Info("m", "s", "grüße, 世界", "n", 7, "d", 1500*time.Millisecond, "stack", "a\n\tb")
	var m map[string]any
	if err := json.Unmarshal(b.Bytes(), &m); err != nil {
		t.Fatal(err)
	}
	if m["s"] != "grüße, 世界" || m["n"] != 7.0 || m["d"] != "1.5s" || m["stack"] != "a\n\tb" || m["level"] != "INFO" {
		t.Errorf("%s", &b)
	}
}

// What clients send does not come into the log at the usual level, and its payload at none.
func TestLogHoldsNoPayload(t *testing.T) {
	g := start(t, nil)
	g.ask(t, Pub, "POST", "/v1/msgs/orders/v1?key=canary-key", withBody("canary-payload"))
	g.ask(t, Pub, "POST", "/v1/msgs/orders/v1?access_token=canary-token", withBody("canary-payload"))
	g.ask(t, Pub, "POST", "/v1/msgs/orders/v1", func(r *http.Request) {
		withBody("canary-payload")(r)
		r.Header.Set("Authorization", "Bearer canary-token")
		r.Header.Set("Pubkey", "canary-token")
		r.Header["X-Tag"] = []string{"canary-tag", "canary-tag"}
	})
	g.ask(t, Pub, "GET", "/v1/msgs/default/orders/v1?group=g", nil)
	if log := g.logged.String(); strings.Contains(log, "canary") || !strings.Contains(log, "access_token") {
		t.Errorf("%s", log)
	}
	for line := range strings.Lines(g.logged.String()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("%q", line)
		}
	}
}

func TestCut(t *testing.T) {
	for in, want := range map[string]string{"": "", "abcd": "abcd", "abcde": "abcd...", "abcé": "abc..."} {
		if got := cut(in, 4); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}

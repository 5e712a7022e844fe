package manager_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/manager"
	"github.com/kateway/kateway/meta"
)

func TestOptions(t *testing.T) {
	f := newFixture(t, nil)
	const path = "/v1/options/log_level"
	first := f.ask("GET", path, "")
	if b := first.want(t, 200); b.fields("name", "value", "default", "set", "persists") != "log_level info info false true" || first.etag() != "" {
		t.Errorf("at first %v", b)
	}
	set := f.ask("PUT", path, `{"value":"debug"}`)
	if b := set.want(t, 200); b.fields("value", "default", "set") != "debug info true" || set.etag() == "" {
		t.Errorf("set to %v", b)
	}
	f.ask("PUT", path, `{"value":"warn"}`, "If-Match", `"older"`).problem(t, errs.PreconditionFailed)
	f.ask("PUT", path, `{"value":"warn"}`, "If-Match", set.etag()).want(t, 200)
	if got := f.must(200, "GET", "/v1/options", "").names(t, "value"); len(got) != 1 || got[0] != "warn" {
		t.Errorf("listed %v", got)
	}
	for range 2 { // the second finds nothing to do
		if b := f.must(200, "PUT", path, `{"value":null}`); b.fields("value", "set") != "info false" {
			t.Errorf("unset to %v", b)
		}
	}
	for body, says := range map[string]string{`{"value":"loud"}`: "debug", `{"value":"DEBUG"}`: "debug", `{"value":7}`: "debug", `{}`: "missing", `{"level":"info"}`: "level"} {
		f.ask("PUT", path, body).problem(t, errs.InvalidBody, says)
	}
	f.ask("GET", "/v1/options/none", "").problem(t, errs.NotFound, "none")
	f.ask("PUT", "/v1/options/none", `{"value":1}`).problem(t, errs.NotFound, "none")
}

// started runs Follow until the test ends.
func started(t *testing.T, o *manager.Options, d *meta.Directory) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		o.Follow(ctx, d)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
}

// An option that is set at one gateway holds at all of them, and back to the configuration's when it is unset; one that
// starts later has it, too.
func TestOptionsHoldEverywhere(t *testing.T) {
	f := newFixture(t, nil)
	levels := map[string]chan slog.Level{"gw1": make(chan slog.Level, 9), "gw2": make(chan slog.Level, 9)}
	refused := make(chan string, 9)
	follower := func(gateway, configured string) manager.Option {
		return manager.Option{Name: "log_level", Default: func() json.RawMessage { return json.RawMessage(configured) }, Apply: func(v json.RawMessage, try bool) error {
			var l slog.Level
			err := json.Unmarshal(v, &l)
			switch {
			case err != nil:
				refused <- gateway
			case !try:
				levels[gateway] <- l
			}
			return err
		}}
	}
	var log logBuffer
	logger := slog.New(slog.NewJSONHandler(&log, nil))
	started(t, manager.NewOptions(logger, follower("gw1", `"INFO"`)), f.meta)
	expect := func(want ...slog.Level) {
		t.Helper()
		for i, gateway := range []string{"gw1", "gw2"} {
			if i < len(want) {
				if got := <-levels[gateway]; got != want[i] {
					t.Errorf("%s: %v, not %v", gateway, got, want[i])
				}
			}
		}
	}
	f.must(200, "PUT", "/v1/options/log_level", `{"value":"debug"}`)
	expect(slog.LevelDebug)
	g := f.another()
	started(t, manager.NewOptions(logger, follower("gw2", `"WARN"`)), g.meta)
	if got := <-levels["gw2"]; got != slog.LevelDebug {
		t.Errorf("a gateway that starts later has %v", got)
	}
	g.must(200, "PUT", "/v1/options/log_level", `{"value":"error"}`)
	expect(slog.LevelError, slog.LevelError)
	f.must(200, "PUT", "/v1/options/log_level", `{"value":null}`)
	expect(slog.LevelInfo, slog.LevelWarn)

	// A value that this version does not know changes nothing, and is told.
	if _, err := f.meta.Put(t.Context(), &meta.Option{Name: "log_level", Value: json.RawMessage(`{"new":"form"}`)}, ""); err != nil {
		t.Fatal(err)
	}
	if a, b := <-refused, <-refused; a == b {
		t.Errorf("%s looked twice", a)
	}
	f.must(200, "PUT", "/v1/options/log_level", `{"value":"debug"}`)
	expect(slog.LevelDebug, slog.LevelDebug)
	if len(levels["gw1"])+len(levels["gw2"]) > 0 {
		t.Error("applied more than once")
	}
	if s := log.String(); strings.Count(s, `"level":"ERROR"`) != 2 || !strings.Contains(s, `"option":"log_level"`) {
		t.Errorf("log %s", s)
	}
}

func TestLogLevel(t *testing.T) {
	level := &slog.LevelVar{}
	level.Set(slog.LevelWarn)
	o := manager.LogLevel(level, func() string { return "warn" })
	if d := o.Default(); string(d) != `"warn"` {
		t.Errorf("default %s", d)
	}
	if err := o.Apply(json.RawMessage(`"debug"`), true); err != nil || level.Level() != slog.LevelWarn {
		t.Errorf("%v after a mere look, %v", level.Level(), err)
	}
	if err := o.Apply(json.RawMessage(`"debug"`), false); err != nil || level.Level() != slog.LevelDebug {
		t.Errorf("%v, %v", level.Level(), err)
	}
	if err := o.Apply(json.RawMessage(`"off"`), false); errs.Of(err) != errs.InvalidBody || level.Level() != slog.LevelDebug {
		t.Errorf("%v, %v", level.Level(), err)
	}
}

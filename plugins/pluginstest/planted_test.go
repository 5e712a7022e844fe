package pluginstest_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/plugins"
	"github.com/kateway/kateway/plugins/pluginstest"
	"github.com/kateway/kateway/store"
)

const plantedEnv = "PLUGINSTEST_PLANTED"

// faulty is a plugin that keeps to the contract, but for what it has in place of it.
type faulty struct {
	wrap       func(plugins.Handler) plugins.Handler
	inspection plugins.Inspection
}

func (f *faulty) Wrap(next plugins.Handler) plugins.Handler {
	if f.wrap != nil {
		return f.wrap(next)
	}
	return func(ctx context.Context, c *plugins.Call) error {
		if c.Header.Get("X-Refuse") != "" {
			return errs.Denied
		}
		return next(ctx, c)
	}
}

func (f *faulty) Inspection(*plugins.Call) plugins.Inspection { return f.inspection }

func kindOf(f *faulty, read func(plugins.Options) error, begin func()) plugins.Kind {
	return plugins.Kind{Read: func(o plugins.Options) (plugins.Make, error) {
		if err := read(o); err != nil {
			return nil, err
		}
		return func(context.Context, plugins.Env) (plugins.Plugin, error) {
			begin()
			return f, nil
		}, nil
	}}
}

// planted are bugs by the name of the check that finds them; "" is a plugin without one.
func planted() map[string]plugins.Kind {
	strict := func(o plugins.Options) error {
		var none struct{}
		return o.Into(&none)
	}
	nothing := func() {}
	wrap := func(w func(next plugins.Handler) plugins.Handler) plugins.Kind {
		return kindOf(&faulty{wrap: w}, strict, nothing)
	}
	return map[string]plugins.Kind{
		"":                   kindOf(&faulty{inspection: func(context.Context, *plugins.Message) error { return nil }}, strict, nothing),
		"options_are_strict": kindOf(&faulty{}, func(plugins.Options) error { return nil }, nothing),
		"next_is_called_once,_by_many_at_a_time": wrap(func(plugins.Handler) plugins.Handler {
			return func(context.Context, *plugins.Call) error { return nil }
		}),
		"what_is_behind_it_is_answered": wrap(func(next plugins.Handler) plugins.Handler {
			return func(ctx context.Context, c *plugins.Call) error {
				if next(ctx, c) != nil {
					return errs.Denied // one that is swallowed the gate answers all the same
				}
				return nil
			}
		}),
		"a_refusal_does_not_go_on": wrap(func(next plugins.Handler) plugins.Handler {
			return func(ctx context.Context, c *plugins.Call) error {
				err := next(ctx, c)
				if c.Header.Get("X-Refuse") != "" {
					return errs.Denied
				}
				return err
			}
		}),
		"an_inspection_does_not_write_to_what_is_shared": kindOf(&faulty{inspection: func(_ context.Context, m *plugins.Message) error {
			m.Value[0] = 'X'
			return nil
		}}, strict, nothing),
		"nothing_is_left_when_it_ends": kindOf(&faulty{}, strict, func() {
			go func() { select {} }()
		}),
	}
}

// Each check finds the bug that it is there for: a plugin with it fails in that check, one without any passes. The suite fails
// the test that runs it, so that this one runs as another process for each.
func TestPlantedBugs(t *testing.T) {
	request := func(header ...string) func() *http.Request {
		return func() *http.Request {
			r := httptest.NewRequest(http.MethodPost, "/v1/msgs/orders/v1", http.NoBody)
			for _, h := range header {
				r.Header.Set(h, "1")
			}
			return r
		}
	}
	if name, here := os.LookupEnv(plantedEnv); here {
		pluginstest.Run(t, pluginstest.Config{Kind: planted()[name], Pass: request(), Refuse: request("X-Refuse"), Message: store.Message{Value: []byte("value")}})
		return
	}
	for name := range planted() {
		t.Run("bug "+name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestPlantedBugs$", "-test.v")
			cmd.Env = append(os.Environ(), plantedEnv+"="+name)
			out, err := cmd.CombinedOutput()
			text := string(out)
			switch {
			case name == "" && (err != nil || strings.Contains(text, "--- SKIP")):
				t.Errorf("a plugin without a bug: %v\n%s", err, text)
			case name != "" && (err == nil || !strings.Contains(text, "--- FAIL: TestPlantedBugs/"+name)):
				t.Errorf("not found: %v\n%s", err, text)
			}
		})
	}
}

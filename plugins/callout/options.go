package callout

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/kateway/kateway/plugins"
)

// Options are the plugin's.
type Options struct {
	URL       string        `yaml:"url"`        // where each call is asked about
	Timeout   time.Duration `yaml:"timeout"`    // of one question
	Ops       []string      `yaml:"ops"`        // of publish, subscribe, settle; none: all
	Headers   []string      `yaml:"headers"`    // of the request, that the service is told
	OnFailure string        `yaml:"on_failure"` // deny or allow, when there is no answer
	Cached    int           `yaml:"cached"`     // answers that are remembered
	KeyFile   string        `yaml:"key_file"`   // a secret that is shown to the service, as bearer
}

// ops are by plugins.Op.
var ops = []string{plugins.Publish: "publish", plugins.Subscribe: "subscribe", plugins.Settle: "settle"} // read only

// secret headers are never passed on: who calls is known by then.
var secret = []string{"Authorization", "Pubkey", "Subkey", "Cookie", "Proxy-Authorization"} // read only

const maxTimeout = 10 * time.Second

// Kind is the plugin as the configuration has it.
func Kind() plugins.Kind {
	return plugins.Kind{Read: func(o plugins.Options) (plugins.Make, error) {
		opts := Options{Timeout: time.Second, OnFailure: "deny", Cached: 10_000}
		if err := errors.Join(o.Into(&opts), opts.check()); err != nil {
			return nil, err
		}
		return func(_ context.Context, e plugins.Env) (plugins.Plugin, error) { return newPlugin(opts, e) }, nil
	}}
}

// check answers every fault, joined, and brings the headers' names into their canonical form.
func (o *Options) check() error {
	var faults []error
	fault := func(bad bool, format string, args ...any) {
		if bad {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	u, err := url.Parse(o.URL)
	fault(err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https", "url: %q is no http or https URL", o.URL)
	fault(o.Timeout <= 0 || o.Timeout > maxTimeout, "timeout: %v is not between 0 and %v", o.Timeout, maxTimeout)
	fault(o.OnFailure != "deny" && o.OnFailure != "allow", "on_failure: %q is neither deny nor allow", o.OnFailure)
	fault(o.Cached < 0 || o.Cached > 1_000_000, "cached: %d is not between 0 and 1000000", o.Cached)
	for _, op := range o.Ops {
		fault(!slices.Contains(ops, op), "ops: there is no %q; there is %s", op, strings.Join(ops, ", "))
	}
	for i, name := range o.Headers {
		o.Headers[i] = http.CanonicalHeaderKey(name)
		fault(slices.Contains(secret, o.Headers[i]), "headers: %s has secrets, which are not passed on", name)
	}
	return errors.Join(faults...)
}

func (o *Options) wants(op plugins.Op) bool {
	return len(o.Ops) == 0 || slices.Contains(o.Ops, ops[op])
}

// key reads the secret for the service, "" for none.
func (o *Options) key() (string, error) {
	if o.KeyFile == "" {
		return "", nil
	}
	b, err := os.ReadFile(o.KeyFile)
	return strings.TrimSpace(string(b)), err
}

package plugins

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.yaml.in/yaml/v3"

	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/store"
)

// Table has kinds of plugins by the names that the configuration has for them.
type Table map[string]Kind

// Kind is a sort of plugin.
type Kind struct {
	// Identifies says that it finds out who calls (see Identifier): a chain with one ends open mode.
	Identifies bool
	// Read reads the options, and answers how to make the plugin. It looks at nothing outside of them, so that a
	// configuration can be checked without a start. Every fault is in the error, joined.
	Read func(Options) (Make, error)
}

// Make makes a plugin, once, at the start. When it fails it leaves nothing behind.
type Make func(context.Context, Env) (Plugin, error)

// Env is what a plugin stands on. All fields are set; the functions may be called concurrently.
type Env struct {
	ID      string // the gateway's
	Meta    Meta
	Store   store.Publisher // as publishers have it; in use from the first request on
	Log     *slog.Logger    // says which plugin it is
	Metrics prometheus.Registerer
	Data    string // a directory of the plugin's own, made when it is asked for by os.MkdirAll; it outlives restarts
	// Secrets are what the same plugin of all gateways shares and nobody else knows: by the first it makes things, by all it
	// knows them again. None until they were read. They stay the same for the most part, and are not to be written to.
	Secrets func() [][]byte
	// Others asks the same plugin of every other gateway, and answers what each says, by the gateway's id. Gateways that do
	// not answer in time, or where that plugin is no Answerer, are missing. None where there are no others.
	Others func(ctx context.Context, ask []byte) map[string][]byte
}

// Meta is what is known of tenants.
type Meta interface {
	// Snapshot is immutable, in memory, and never waits. Its Revision is 0 until something was read.
	Snapshot() *meta.Snapshot
	// Changed is closed when the next snapshot is there.
	Changed() <-chan struct{}
}

// Runner is a Plugin with work in the background.
type Runner interface {
	Plugin
	// Run does it until ctx ends, then finishes what it has begun and returns. It is called once, before the first request,
	// and waited for after the last one.
	Run(ctx context.Context)
}

// Answerer is a Plugin that other gateways ask.
type Answerer interface {
	Plugin
	// Answer answers the same plugin of another gateway. Neither may be longer than 1 MiB.
	Answer(ctx context.Context, from string, ask []byte) ([]byte, error)
}

// Minter is a Plugin that makes tokens for clients that can set no headers.
type Minter interface {
	Plugin
	// Mint makes one that is good for what the call wants and for nothing else. The call has passed the chain.
	Mint(ctx context.Context, c *Call, ttl time.Duration) (token string, expires time.Time, err error)
}

// Options are what the configuration says of a plugin, not read yet.
type Options struct {
	text []byte // YAML; nil for none
}

// NewOptions are those of a node of the configuration file.
func NewOptions(n *yaml.Node) Options {
	if n == nil || n.Tag == "!!null" {
		return Options{}
	}
	text, err := yaml.Marshal(n)
	if err != nil { // a node that was read can be written
		panic(err)
	}
	return Options{text}
}

// ParseOptions are those of a text in YAML.
func ParseOptions(text string) Options { return Options{[]byte(text)} }

// Equal reports whether they say the same in the same words.
func (o Options) Equal(other Options) bool { return bytes.Equal(o.text, other.text) }

// atLine is where the library found a fault: a line of our text, which nobody has before him.
var atLine = regexp.MustCompile(`^(yaml: )?line \d+: | at line \d+`)

// Into reads them over what into, a pointer to a struct, has as defaults. Fields are named by their tag yaml. An unknown
// option is a fault, and so is a value of the wrong type; all of them are told, joined.
func (o Options) Into(into any) error {
	if o.text == nil {
		return nil
	}
	d := yaml.NewDecoder(bytes.NewReader(o.text))
	d.KnownFields(true)
	err := d.Decode(into)
	var wrong *yaml.TypeError
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case errors.As(err, &wrong):
		var all []error
		for _, e := range wrong.Errors {
			all = append(all, errors.New(atLine.ReplaceAllString(e, "")))
		}
		return errors.Join(all...)
	case err != nil:
		return errors.New(atLine.ReplaceAllString(err.Error(), ""))
	}
	return nil
}

// None reads the options of a plugin that has none.
func None(o Options) error {
	if err := o.Into(new(struct{})); err != nil {
		return fmt.Errorf("it has no options: %w", err)
	}
	return nil
}

package transform

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/kateway/kateway/internal/filter"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/plugins"
	"github.com/kateway/kateway/store"
)

// Bounds of rules.
const (
	maxRules   = 100
	maxActions = 32
	maxWith    = 1 << 10 // bytes of what a redacted value is replaced by
	maxHeader  = 1 << 10 // bytes of a header that a rule sets
	maxKeep    = 64
)

// Options are the plugin's.
type Options struct {
	Rules []Rule `yaml:"rules"`
}

// Rule says what is done to which messages.
type Rule struct {
	Name  string   `yaml:"name"` // in errors and causes; "": its number
	Match Match    `yaml:"match"`
	When  string   `yaml:"when"` // CEL, as the filter of a subscriber; "": always
	Do    []Action `yaml:"do"`
}

// Match says which topics a rule is for. Each may have * for any characters; "" is *.
type Match struct {
	App       string `yaml:"app"` // the topic's owner
	Topic     string `yaml:"topic"`
	Ver       string `yaml:"ver"`
	Direction string `yaml:"direction"` // in, as it is published; out, as it is delivered
}

// Action is one of its fields.
type Action struct {
	Rename       *Rename       `yaml:"rename"`
	Remove       string        `yaml:"remove"` // a path
	Mask         *Mask         `yaml:"mask"`
	Redact       *Redact       `yaml:"redact"`
	SetHeader    *SetHeader    `yaml:"set_header"`
	RenameHeader *RenameHeader `yaml:"rename_header"`
	RemoveHeader string        `yaml:"remove_header"` // a name
	Drop         bool          `yaml:"drop"`
	Route        *Route        `yaml:"route"`
}

// Rename gives a member of a JSON object another name.
type Rename struct {
	Path string `yaml:"path"`
	To   string `yaml:"to"`
}

// Mask leaves the last characters of a string, and stars for the others.
type Mask struct {
	Path string `yaml:"path"`
	Keep *int   `yaml:"keep"` // nil: 4
}

// Redact replaces a value.
type Redact struct {
	Path string `yaml:"path"`
	With string `yaml:"with"` // JSON; "": "[redacted]"
}

// SetHeader sets a record header, in place of all of that name.
type SetHeader struct {
	Name  string `yaml:"name"`
	Value string `yaml:"value"`
}

// RenameHeader gives a record header another name.
type RenameHeader struct {
	From string `yaml:"from"`
	To   string `yaml:"to"`
}

// Route sends the message to another topic of the same app.
type Route struct {
	Topic string `yaml:"topic"`
	Ver   string `yaml:"ver"` // "": the one that it was published to
}

// pattern matches names, * standing for any characters.
type pattern string

func (p pattern) matches(name string) bool {
	if p == "" || p == "*" {
		return true
	}
	ok, _ := path.Match(string(p), name) // names have no slash
	return ok
}

// compile reads all rules, and answers every fault.
func (o *Options) compile() (in, out []*rule, err error) {
	var faults []error
	if len(o.Rules) == 0 {
		faults = append(faults, errors.New("rules: there are none"))
	}
	if len(o.Rules) > maxRules {
		faults = append(faults, fmt.Errorf("rules: %d, %d at most", len(o.Rules), maxRules))
	}
	names := map[string]bool{}
	for i := range o.Rules {
		r, bad := o.Rules[i].compile(i)
		for _, err := range bad {
			faults = append(faults, fmt.Errorf("rule %s: %w", r.name, err))
		}
		if names[r.name] {
			faults = append(faults, fmt.Errorf("rule %s: is there twice", r.name))
		}
		names[r.name] = true
		if o.Rules[i].Match.Direction == "out" {
			out = append(out, r)
		} else {
			in = append(in, r)
		}
	}
	return in, out, errors.Join(faults...)
}

func (r *Rule) compile(i int) (*rule, []error) {
	m := &r.Match
	c := &rule{name: r.Name, app: pattern(m.App), topic: pattern(m.Topic), to: pattern(m.Ver)}
	var faults []error
	add := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if c.name == "" {
		c.name = fmt.Sprint(i + 1)
	}
	if len(c.name) > 64 || strings.ContainsFunc(c.name, func(r rune) bool { return r < ' ' || r > '~' }) {
		add("name: must be 64 visible characters at most")
	}
	for what, p := range map[string]pattern{"app": c.app, "topic": c.topic, "ver": c.to} {
		if _, err := path.Match(string(p), ""); err != nil || strings.ContainsAny(string(p), `/[?\`) {
			add("match: %s: %q: must be a name, in which * stands for any characters", what, p)
		}
	}
	if m.Direction != "in" && m.Direction != "out" {
		add("match: direction: must be in or out, not %q", m.Direction)
	}
	if r.When != "" {
		var err error
		if c.when, err = filter.Compile(nil, r.When); err != nil {
			add("when: %w", err)
		}
	}
	if len(r.Do) == 0 || len(r.Do) > maxActions {
		add("do: %d actions, there must be 1 to %d", len(r.Do), maxActions)
	}
	for i := range r.Do {
		s, last, err := r.Do[i].compile(m.Direction)
		if err != nil {
			add("do: action %d: %w", i+1, err)
		}
		if last && i < len(r.Do)-1 {
			add("do: action %d: nothing can follow it", i+1)
		}
		c.steps = append(c.steps, s)
	}
	return c, faults
}

// compile makes a step of an action; last: it ends the way of the message here.
func (a *Action) compile(direction string) (s step, last bool, err error) {
	given := 0
	is := func(there bool, f func() (step, error)) {
		if there {
			if given++; given == 1 {
				s, err = f()
			}
		}
	}
	is(a.Rename != nil, func() (step, error) { return a.Rename.step() })
	is(a.Remove != "", func() (step, error) { return editStep(a.Remove, remove, edit{}) })
	is(a.Mask != nil, func() (step, error) { return a.Mask.step() })
	is(a.Redact != nil, func() (step, error) { return a.Redact.step() })
	is(a.SetHeader != nil, func() (step, error) { return a.SetHeader.step() })
	is(a.RenameHeader != nil, func() (step, error) { return a.RenameHeader.step() })
	is(a.RemoveHeader != "", func() (step, error) { return removeHeader(a.RemoveHeader) })
	is(a.Drop, func() (step, error) {
		return func(m *plugins.Message) error { m.Dropped = true; return nil }, nil
	})
	is(a.Route != nil, func() (step, error) { return a.Route.step(direction) })
	if given != 1 {
		return nil, false, fmt.Errorf("must be one of rename, remove, mask, redact, set_header, rename_header, remove_header, drop and route, not %d of them", given)
	}
	return s, a.Drop || a.Route != nil, err
}

func editStep(path string, what operation, e edit) (step, error) {
	parts, err := parsePath(path)
	if err != nil {
		return nil, err
	}
	e.path, e.what = parts, what
	if what == rename && parts[len(parts)-1] == any1 {
		return nil, fmt.Errorf("path %q: rename one member, not any", path)
	}
	return onJSON(&e), nil
}

func (r *Rename) step() (step, error) {
	if r.To == "" {
		return nil, errors.New("rename: to: must not be empty")
	}
	quoted, err := jsontext.AppendQuote(nil, r.To)
	if err != nil {
		return nil, fmt.Errorf("rename: to: %w", err)
	}
	return editStep(r.Path, rename, edit{name: r.To, with: quoted})
}

func (m *Mask) step() (step, error) {
	keep := 4
	if m.Keep != nil {
		keep = *m.Keep
	}
	if keep < 0 || keep > maxKeep {
		return nil, fmt.Errorf("mask: keep: must be 0 to %d", maxKeep)
	}
	return editStep(m.Path, mask, edit{keep: keep})
}

func (r *Redact) step() (step, error) {
	with := jsontext.Value(r.With)
	if r.With == "" {
		with = jsontext.Value(`"[redacted]"`)
	}
	if !with.IsValid() || len(with) > maxWith {
		return nil, fmt.Errorf("redact: with: must be a JSON value of %d bytes at most, as '\"gone\"' or null", maxWith)
	}
	return editStep(r.Path, redact, edit{with: with})
}

// checkHeader refuses names that no header can have, and those that mean something to kateway.
func checkHeader(name string) error {
	if name == "" || len(name) > 128 || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Errorf("header %q: must be 1 to 128 visible ASCII characters", name)
	}
	if strings.HasPrefix(strings.ToLower(name), "kateway-") {
		return fmt.Errorf("header %q: those that begin with kateway- are the gateway's own", name)
	}
	return nil
}

func (s *SetHeader) step() (step, error) {
	if len(s.Value) > maxHeader {
		return nil, fmt.Errorf("set_header: value: %d bytes at most", maxHeader)
	}
	value := []byte(s.Value)
	return func(m *plugins.Message) error {
		m.Headers = append(without(m.Headers, s.Name), store.Header{Key: s.Name, Value: value})
		return nil
	}, checkHeader(s.Name)
}

func (r *RenameHeader) step() (step, error) {
	return func(m *plugins.Message) error {
		if !slices.ContainsFunc(m.Headers, func(h store.Header) bool { return h.Key == r.From }) {
			return nil
		}
		headers := without(m.Headers, r.To) // a copy of its own
		for i := range headers {
			if headers[i].Key == r.From {
				headers[i].Key = r.To
			}
		}
		m.Headers = headers
		return nil
	}, errors.Join(checkHeader(r.From), checkHeader(r.To))
}

func removeHeader(name string) (step, error) {
	return func(m *plugins.Message) error {
		m.Headers = without(m.Headers, name)
		return nil
	}, checkHeader(name)
}

// without is a copy of the headers without those of a name.
func without(headers []store.Header, name string) []store.Header {
	list := make([]store.Header, 0, len(headers)+1)
	for _, h := range headers {
		if h.Key != name {
			list = append(list, h)
		}
	}
	return list
}

func (r *Route) step(direction string) (step, error) {
	if direction == "out" {
		return nil, errors.New("route: what is delivered can't be sent elsewhere; direction must be in")
	}
	ver := r.Ver
	if ver == "" {
		ver = "v1" // to check the topic's name
	}
	if _, err := meta.ParseTopic("app", r.Topic, ver); err != nil {
		return nil, fmt.Errorf("route: %w", err)
	}
	return func(m *plugins.Message) error {
		m.Topic = r.Topic
		if r.Ver != "" {
			m.Ver = r.Ver
		}
		return nil
	}, nil
}

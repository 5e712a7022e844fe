package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"

	"github.com/kateway/kateway/gateway"
	"github.com/kateway/kateway/plugins"
)

const (
	envPrefix   = "KATEWAY_"
	envAdminKey = envPrefix + "ADMIN_KEY"
)

// others are variables that are no options: the admin key, those of kateway gk, which may be set in the same shell, and what
// a process says to the one that takes over from it.
var others = []string{"ADMIN_KEY", "APP_KEY", "APP_KEY_FILE", "CA_FILE", "HANDOVER"} // read only

// commas are those of a list, with the space that people put behind them.
var commas = regexp.MustCompile(`\s*,\s*`)

// invocation is what the command line asks for.
type invocation struct {
	command string
	done    bool // answered already, as --help is
	config  gateway.Config
	file    string // config check's
}

// parse reads the command line and, for serve, the environment and the file beneath it. Every fault of all of them is in
// the error, joined.
func parse(own plugins.Table, args, environ []string, stdout, stderr io.Writer) (invocation, error) {
	var c commands
	l := &layers{environ: environ, origin: map[string]string{}}
	in := invocation{}
	k, err := kong.New(&c, kong.Name("kateway"), kong.Writers(stdout, stderr), kong.Exit(func(int) { in.done = true }), kong.Resolvers(l),
		kong.Description(description), kong.ConfigureHelp(kong.HelpOptions{NoExpandSubcommands: true, Compact: true}))
	if err != nil {
		return in, err
	}
	for _, node := range k.Model.Children {
		if node.Name == "serve" {
			l.options = node.Flags
		}
	}
	ctx, err := k.Parse(args)
	if in.done {
		return in, nil
	}
	var wrong *kong.ParseError
	if errors.As(err, &wrong) {
		l.load(wrong.Context)
		return in, errors.Join(append([]error{err}, l.faults...)...)
	}
	if err != nil {
		return in, err
	}
	in.command, in.config, in.file = ctx.Command(), gateway.Config(c.Serve.Options), c.Config.Check.File
	in.config.OwnPlugins, in.config.PluginOptions = own, l.plugins
	if in.command != "serve" {
		return in, nil
	}
	return in, errors.Join(append(l.faults, l.locate(in.config.Validate())...)...)
}

const description = "Kafka as a service: publish with an HTTP POST, subscribe with an HTTP GET."

// layers is what lies beneath the flags: the environment, then the file.
type layers struct {
	environ []string
	options []*kong.Flag // of serve
	loaded  bool
	values  map[string]string          // option -> value
	origin  map[string]string          // option -> where its value comes from
	plugins map[string]plugins.Options // what the file says under plugins, besides the chain itself
	faults  []error
}

// Validate is kong's; there is nothing to look at before the flags are known.
func (*layers) Validate(*kong.Application) error { return nil }

// Resolve answers the value of an option that no flag gives.
func (l *layers) Resolve(ctx *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	l.load(ctx)
	if v, found := l.values[flag.Name]; found {
		return v, nil
	}
	return nil, nil //nolint:nilnil // kong's way to say that there is none
}

// load reads both layers, once. Values that can't be read are faults and left out.
func (l *layers) load(ctx *kong.Context) {
	if l.loaded {
		return
	}
	l.loaded, l.values = true, map[string]string{}
	options := map[string]*kong.Flag{}
	file := ""
	for _, f := range l.options {
		options[f.Name] = f
	}
	for _, p := range ctx.Path {
		if p.Flag == nil {
			continue
		}
		l.origin[p.Flag.Name] = "--" + p.Flag.Name
		if p.Flag.Name == "config" {
			file, _ = ctx.FlagValue(p.Flag).(string)
		}
	}
	l.fromEnvironment(options)
	if file == "" {
		file = l.values["config"]
	}
	if file != "" {
		l.fromFile(file, options)
	}
}

// set takes a value from a layer, unless one above it has one.
func (l *layers) set(option *kong.Flag, value, where string) {
	if option.IsSlice() {
		value = commas.ReplaceAllString(value, ",")
	}
	if err := option.Parse(kong.ScanFromTokens(kong.Token{Type: kong.FlagValueToken, Value: value}), reflect.New(option.Target.Type()).Elem()); err != nil {
		l.faults = append(l.faults, fmt.Errorf("%s: %w", where, err))
		return
	}
	if l.origin[option.Name] == "" {
		l.values[option.Name], l.origin[option.Name] = value, where
	}
}

// fromEnvironment reads KATEWAY_*. An empty variable is none. What Kubernetes sets in every container beside a service
// that is called kateway is passed over.
func (l *layers) fromEnvironment(options map[string]*kong.Flag) {
	slices.Sort(l.environ)
	for _, e := range l.environ {
		name, value, _ := strings.Cut(e, "=")
		rest, ours := strings.CutPrefix(name, envPrefix)
		if !ours || value == "" || slices.Contains(others, rest) || rest == "PORT" || strings.HasPrefix(rest, "PORT_") || strings.HasPrefix(rest, "SERVICE_") {
			continue
		}
		option := options[strings.ToLower(strings.ReplaceAll(rest, "_", "-"))]
		if option == nil || option.Name == "help" {
			l.faults = append(l.faults, fmt.Errorf("%s: there is no such option; kateway serve --help lists them", name))
			continue
		}
		l.set(option, value, name)
	}
}

// fromFile reads the YAML file: one mapping of options to scalars or lists of them.
func (l *layers) fromFile(name string, options map[string]*kong.Flag) {
	b, err := os.ReadFile(name)
	if err != nil {
		l.faults = append(l.faults, fmt.Errorf("configuration file: %w", err))
		return
	}
	var doc yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(b))
	switch err := decoder.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return // nothing but comments
	case err != nil:
		l.faults = append(l.faults, fmt.Errorf("%s: %w", name, err))
		return
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		l.faults = append(l.faults, fmt.Errorf("%s: more than one document", name))
	}
	top := doc.Content[0]
	if top.Tag == "!!null" {
		return
	}
	if top.Kind != yaml.MappingNode {
		l.faults = append(l.faults, fmt.Errorf("%s:%d: the file must be a list of option: value", name, top.Line))
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(top.Content); i += 2 {
		l.entry(name, top.Content[i], top.Content[i+1], options, seen)
	}
}

// entry takes one key of the file.
func (l *layers) entry(file string, key, value *yaml.Node, options map[string]*kong.Flag, seen map[string]int) {
	where := fmt.Sprintf("%s:%d", file, key.Line)
	option := options[key.Value]
	switch first, again := seen[key.Value]; {
	case again:
		l.faults = append(l.faults, fmt.Errorf("%s: %s is given twice, first in line %d", where, key.Value, first))
		return
	case option == nil || key.Value == "help" || key.Value == "config":
		l.faults = append(l.faults, fmt.Errorf("%s: %s: there is no such option; kateway serve --help lists them", where, key.Value))
		return
	}
	seen[key.Value] = key.Line
	var text string
	var err error
	if key.Value == "plugins" {
		text, err = l.chain(value)
	} else {
		text, err = textOf(value)
	}
	if err != nil {
		l.faults = append(l.faults, fmt.Errorf("%s: %s: %w", where, key.Value, err))
		return
	}
	l.set(option, text, where)
}

// chain reads plugins with their options: a list whose elements are a name or a name with options, or a mapping of names to
// options. It answers the names in their order, as the flag would give them. The options count for a chain that a flag or the
// environment gives, too.
func (l *layers) chain(v *yaml.Node) (string, error) {
	var names []string
	l.plugins = map[string]plugins.Options{}
	take := func(pairs []*yaml.Node) {
		for i := 0; i+1 < len(pairs); i += 2 {
			names = append(names, pairs[i].Value)
			l.plugins[pairs[i].Value] = plugins.NewOptions(pairs[i+1])
		}
	}
	switch v.Kind {
	case yaml.MappingNode:
		take(v.Content)
	case yaml.SequenceNode:
		for _, item := range v.Content {
			switch {
			case item.Kind == yaml.ScalarNode:
				names = append(names, item.Value)
			case item.Kind == yaml.MappingNode && len(item.Content) == 2:
				take(item.Content)
			default:
				return "", fmt.Errorf("line %d: an element must be a plugin's name, or its name with options below it", item.Line)
			}
		}
	default:
		return textOf(v)
	}
	return strings.Join(names, ","), nil
}

// textOf is a value as a flag would give it.
func textOf(v *yaml.Node) (string, error) {
	switch v.Kind {
	case yaml.ScalarNode:
		if v.Tag == "!!null" {
			return "", errors.New("has no value; remove the key to get the default")
		}
		return v.Value, nil
	case yaml.SequenceNode:
		items := make([]string, len(v.Content))
		for i, item := range v.Content {
			if item.Kind != yaml.ScalarNode || strings.Contains(item.Value, ",") {
				return "", fmt.Errorf("line %d: an element must be a plain value without a comma", item.Line)
			}
			items[i] = item.Value
		}
		return strings.Join(items, ","), nil
	}
	return "", errors.New("must be a plain value or a list of them")
}

// locate says of each fault of the configuration where the value comes from.
func (l *layers) locate(err error) []error {
	var out []error
	for _, e := range flatten(err) {
		var f *gateway.Fault
		if errors.As(e, &f) {
			if where := l.origin[f.Option]; where == "" || strings.HasPrefix(where, "--") {
				e = fmt.Errorf("--%s: %w", f.Option, f.Err)
			} else {
				e = fmt.Errorf("%s: %w", where, e)
			}
		}
		out = append(out, e)
	}
	return out
}

// flatten lists the errors that errors.Join joined.
func flatten(err error) []error {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var out []error
	for _, e := range joined.Unwrap() {
		out = append(out, flatten(e)...)
	}
	return out
}

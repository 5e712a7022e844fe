// Package gk is the operators' tool: it looks at a deployment of kateway and changes it, by the management API of a gateway
// and, where that tells more, by asking Kafka itself.
package gk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
)

// What the process ends with.
const (
	exitOK          = 0
	exitFailed      = 1 // the operation failed, or doctor found something
	exitUsage       = 2 // the command line is wrong; nothing was asked
	exitUnreachable = 3 // nobody answered at the address
)

const description = `The operators' tool of kateway. It speaks to the management API of one gateway, which speaks for all of them.

Topics are written app/topic/version.

Exit status: 0 done; 1 the operation failed, or doctor found something; 2 the command line is wrong; 3 the gateway, or Kafka, can't be reached.`

// Run is the whole of `kateway gk ...`: it answers with what the process is to end with. SIGINT and SIGTERM end a command
// in order; commands that run until then (tail, sub, top) have succeeded.
func Run(args, environ []string, stdin io.Reader, stdout, stderr io.Writer, version string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return run(ctx, args, environ, streams{stdin, stdout, stderr}, version)
}

// streams are where a command reads from and writes to.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// run is Run until ctx ends.
func run(ctx context.Context, args, environ []string, io streams, version string) int {
	var c commands
	done := false
	k, err := newParser(&c, environ, io, func(int) { done = true })
	if err != nil {
		fmt.Fprintln(io.err, "gk:", err)
		return exitUsage
	}
	parsed, err := k.Parse(args)
	switch {
	case done: // --help
		return exitOK
	case err != nil:
		fmt.Fprintf(io.err, "gk: %v\n", err)
		return exitUsage
	}
	t, err := newTool(&c.Global, environ, io, version)
	if err != nil {
		return report(io.err, err)
	}
	defer t.close()
	t.model = k.Model
	parsed.BindTo(ctx, (*context.Context)(nil))
	return report(io.err, errors.Join(parsed.Run(t), t.flush()))
}

// newParser makes kong's parser of the commands.
func newParser(c *commands, environ []string, io streams, exit func(int)) (*kong.Kong, error) {
	return kong.New(c, kong.Name("gk"), kong.Description(description), kong.Writers(io.out, io.err), kong.Exit(exit),
		kong.Resolvers(environment(environ)), kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true}))
}

// report tells of the error, one line for each of those that it joins, and answers the exit status.
func report(w io.Writer, err error) int {
	var quiet *foundError
	var usage *usageError
	var away *unreachableError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &quiet):
		return exitFailed
	}
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintln(w, "gk:", printable(strings.TrimSuffix(line, "\n")))
	}
	switch {
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &away):
		return exitUnreachable
	}
	return exitFailed
}

// usageError is a command line that kong could not know to be wrong.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...)}
}

// unreachableError is a request that nobody answered.
type unreachableError struct{ err error }

func (e *unreachableError) Error() string { return e.err.Error() }
func (e *unreachableError) Unwrap() error { return e.err }

// foundError ends a command whose output says already what is wrong.
type foundError struct{}

func (*foundError) Error() string { return "something is wrong" }

// variables are the options that the environment may give, by their names there.
var variables = map[string]string{
	"man":             "KATEWAY_MAN",
	"pub":             "KATEWAY_PUB",
	"sub":             "KATEWAY_SUB",
	"admin-key-file":  "KATEWAY_ADMIN_KEY_FILE",
	"app-key-file":    "KATEWAY_APP_KEY_FILE",
	"ca-file":         "KATEWAY_CA_FILE",
	"brokers":         "KATEWAY_KAFKA",
	"kafka-tls":       "KATEWAY_KAFKA_TLS",
	"kafka-tls-ca":    "KATEWAY_KAFKA_TLS_CA",
	"kafka-tls-cert":  "KATEWAY_KAFKA_TLS_CERT",
	"kafka-tls-key":   "KATEWAY_KAFKA_TLS_KEY",
	"kafka-sasl":      "KATEWAY_KAFKA_SASL",
	"kafka-sasl-file": "KATEWAY_KAFKA_SASL_FILE",
}

// commas are those of a list, with the space that people put behind them.
var commas = regexp.MustCompile(`\s*,\s*`)

// environment gives options that no flag does.
type environment []string

// Validate is kong's; there is nothing to look at.
func (environment) Validate(*kong.Application) error { return nil }

// Resolve answers the value of a flag that is not given. An empty variable is none.
func (e environment) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	name, ours := variables[flag.Name]
	value := e.get(name)
	if !ours || value == "" {
		return nil, nil //nolint:nilnil // kong's way to say that there is none
	}
	return commas.ReplaceAllString(value, ","), nil
}

// get is a variable's value, "" where it is not set.
func (e environment) get(name string) string {
	for _, pair := range e {
		if k, v, _ := strings.Cut(pair, "="); k == name {
			return v
		}
	}
	return ""
}

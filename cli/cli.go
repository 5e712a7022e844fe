// Package cli is the command line of kateway. Who has plugins of their own builds a binary with them by a main that calls Main.
package cli

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/kateway/kateway/gateway"
	"github.com/kateway/kateway/gk"
	"github.com/kateway/kateway/plugins"
)

// Main is the whole of the command kateway. The plugins are there besides the gateway's own; one of a name that the gateway
// has stands in its place. It does not return.
func Main(own plugins.Table) {
	args := os.Args[1:]
	if filepath.Base(os.Args[0]) == "gk" {
		args = append([]string{"gk"}, args...)
	}
	os.Exit(run(own, args, os.Environ(), os.Stdin, os.Stdout, os.Stderr))
}

// What the process ends with.
const (
	exitOK     = 0
	exitFailed = 1 // it could not start or go on, or did not stop in order
	exitUsage  = 2 // command line or configuration
)

// commands is the command line.
type commands struct {
	Serve  serveCommand `cmd:"" default:"withargs" help:"Run the gateway (what kateway alone does too)."`
	Config struct {
		Check struct {
			File string `arg:"" help:"The YAML file."`
		} `cmd:"" help:"Report every fault of a configuration file."`
	} `cmd:"" help:"Look at a configuration."`
	GK      passed   `cmd:"" name:"gk" passthrough:"" help:"Operate gateways: apps, keys, topics, groups and more (kateway gk --help)."`
	Pub     passed   `cmd:"" passthrough:"" help:"Publish lines from standard input (kateway gk pub)."`
	Sub     passed   `cmd:"" passthrough:"" help:"Print a subscription (kateway gk sub)."`
	Version struct{} `cmd:"" help:"Print the version."`
}

// passed is a command whose arguments another package reads.
type passed struct {
	Args []string `arg:"" optional:""`
}

// serveCommand has gateway.Config's fields as options and nothing else but where to read them from.
type serveCommand struct {
	File    string  `name:"config" placeholder:"FILE" help:"YAML file with any of these options as keys."`
	Options options `embed:""`
}

// options is gateway.Config without its methods: kong would call Validate by itself, and see one fault in all of them.
type options gateway.Config

// Help is the second paragraph of kateway serve --help.
func (serveCommand) Help() string {
	return "Every option is also a key of the YAML file (--config) and an environment variable: " + envPrefix +
		", then the name in upper case with _ for -, as " + envPrefix + "LOG_LEVEL. Flags win, then the environment, then the file."
}

// run is Main without the process around it.
func run(own plugins.Table, args, environ []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if len(args) > 0 {
		switch args[0] {
		case "gk":
			return gk.Run(args[1:], environ, stdin, stdout, stderr, version())
		case "pub", "sub":
			return gk.Run(args, environ, stdin, stdout, stderr, version())
		}
	}
	in, err := parse(own, args, environ, stdout, stderr)
	if err != nil {
		report(stderr, err)
		return exitUsage
	}
	switch {
	case in.done: // --help
		return exitOK
	case in.command == "version":
		fmt.Fprintf(stdout, "kateway %s %s %s/%s\n", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return exitOK
	case in.command == "config check <file>":
		return check(own, in.file, stdout, stderr)
	}
	return serve(in.config, func() (gateway.Config, error) {
		again, err := parse(own, args, environ, io.Discard, io.Discard)
		return again.config, err
	}, environ, stderr)
}

// variable is the value of a variable that is no option. The key of the management API is one, since options may stand on
// the command line, where everybody on the machine can read them.
func variable(environ []string, name string) string {
	for _, e := range environ {
		if value, found := strings.CutPrefix(e, name+"="); found {
			return value
		}
	}
	return ""
}

// check is kateway config check.
func check(own plugins.Table, file string, stdout, stderr io.Writer) int {
	if _, err := parse(own, []string{"serve", "--config", file}, nil, stdout, stderr); err != nil {
		report(stderr, err)
		return exitUsage
	}
	fmt.Fprintf(stdout, "%s: ok\n", file)
	return exitOK
}

// report prints an error, one line for each of those that it joins.
func report(w io.Writer, err error) {
	for _, e := range flatten(err) {
		fmt.Fprintln(w, "kateway:", e)
	}
}

// version is what the build says of itself: a tag or a pseudo-version.
func version() string {
	const module = "github.com/kateway/kateway"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "(devel)"
	}
	for _, m := range append(info.Deps, &info.Main) { // it is a dependency in the binary of who has plugins of his own
		if m.Path == module && m.Version != "" {
			return m.Version
		}
	}
	return "(devel)"
}

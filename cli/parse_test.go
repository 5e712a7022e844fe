package cli

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kateway/kateway/gateway"
	"github.com/kateway/kateway/plugins"
)

func file(t *testing.T, content string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "kateway.yaml")
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func mustParse(t *testing.T, environ []string, args ...string) gateway.Config {
	t.Helper()
	in, err := parse(nil, args, environ, io.Discard, io.Discard)
	if err != nil || in.command != "serve" {
		t.Fatalf("%+v, %v", in, err)
	}
	return in.config
}

func TestNothingGivenIsTheDefault(t *testing.T) {
	want := gateway.Default()
	for _, args := range [][]string{nil, {"serve"}, {"--log-level", "info"}} {
		got := mustParse(t, []string{"HOME=/root", "KATEWAY_PUB="}, args...)
		if got.Pub != want.Pub || got.MaxBatch != want.MaxBatch || got.DrainLimit != want.DrainLimit || len(got.Kafka) != 0 {
			t.Errorf("%q: %+v", args, got)
		}
	}
}

func TestFlagsWinThenTheEnvironmentThenTheFile(t *testing.T) {
	name := file(t, "pub: 127.0.0.1:3\nman: 127.0.0.1:3\nlog-level: warn\nmax-key: 3\ninsecure: true\n")
	env := []string{"KATEWAY_PUB=127.0.0.1:2", "KATEWAY_MAN=127.0.0.1:2", "KATEWAY_MAX_KEY=2KiB", "KATEWAY_CONFIG=" + name}
	got := mustParse(t, env, "--pub", "127.0.0.1:1")
	if got.Pub != "127.0.0.1:1" || got.Man != "127.0.0.1:2" || got.LogLevel != "warn" || got.MaxKey != 2048 || !got.Insecure {
		t.Errorf("%+v", got)
	}
	other := file(t, "log-level: error")
	if got := mustParse(t, env, "--config", other); got.LogLevel != "error" || got.MaxKey != 2048 {
		t.Errorf("%+v", got)
	}
	if got := mustParse(t, []string{"KATEWAY_INSECURE=false"}, "--config", name); got.Insecure {
		t.Error("false in the environment does not hide true in the file")
	}
}

func TestValuesOfTheFile(t *testing.T) {
	got := mustParse(t, nil, "serve", "--config", file(t, `
# all forms
kafka: [a:9092, "b:9092"]
hosts: one.example, two.example
origins:
  - https://app.example
drain-grace: 1500ms
max-message: 2MiB
partitions: 3
sub: "off"
`))
	if !slices.Equal(got.Kafka, []string{"a:9092", "b:9092"}) || len(got.Hosts) != 2 || !slices.Equal(got.Origins, []string{"https://app.example"}) ||
		got.DrainGrace != 1500*time.Millisecond || got.MaxMessage != 2<<20 || got.Partitions != 3 || got.Sub != "off" {
		t.Errorf("%+v", got)
	}
	for _, empty := range []string{"", "# nothing\n", "{}", "---\n"} {
		if in, err := parse(nil, []string{"--config", file(t, empty)}, nil, io.Discard, io.Discard); err != nil {
			t.Errorf("%q: %+v, %v", empty, in, err)
		}
	}
}

// Every fault is told, with the place where it stands.
func TestFaults(t *testing.T) {
	for name, c := range map[string]struct {
		file, args string
		env        []string
		want       []string // one per line, in any order
	}{
		"unknown flag":     {"", "--nope localhost:2181", nil, []string{"unknown flag --nope"}},
		"unknown command":  {"", "fly", nil, []string{"unexpected argument fly"}},
		"unknown variable": {"", "", []string{"KATEWAY_NOPE=x", "KATEWAY_HELP=1", "KATEWAY_ADMIN_KEY=no option, but known"}, []string{"KATEWAY_NOPE: there is no such option", "KATEWAY_HELP: there is no such option"}},
		"Kubernetes' own":  {"", "", []string{"KATEWAY_PORT=tcp://1", "KATEWAY_SERVICE_HOST=x", "KATEWAY_PORT_9191_TCP_ADDR=x"}, nil},
		"all layers at once": {"pbu: x\nmax-key: many\nlog-level: loud\nkafka-compression:\n", "--id a/b", []string{"KATEWAY_DRAIN_LIMIT=soon", "KATEWAY_X=1"}, []string{
			"FILE:1: pbu: there is no such option", `FILE:2: --max-key: "many" is no size`, "FILE:3: log-level: ", "FILE:4: kafka-compression: has no value",
			`--id: "a/b" must match`, "KATEWAY_DRAIN_LIMIT: --drain-limit: expected duration", "KATEWAY_X: there is no such option",
		}},
		"a faulty flag, too":  {"nonsense: 1", "--drain-limit soon", []string{"KATEWAY_X=1"}, []string{"--drain-limit: expected duration", "KATEWAY_X: ", "FILE:1: nonsense: "}},
		"twice":               {"pub: 127.0.0.1:1\npub: 127.0.0.1:2\n", "", nil, []string{"FILE:2: pub is given twice, first in line 1"}},
		"help in the file":    {"help: true\nconfig: x\n", "", nil, []string{"FILE:1: help: there is no such option", "FILE:2: config: there is no such option"}},
		"no mapping":          {"- pub\n", "", nil, []string{"FILE:1: the file must be a list of option: value"}},
		"nested":              {"pub: {a: b}\nhosts: [[a]]\n", "", nil, []string{"FILE:1: pub: must be a plain value", "FILE:2: hosts: line 2: an element"}},
		"comma in an element": {"hosts: ['a,b']\n", "", nil, []string{"FILE:1: hosts: line 1: an element"}},
		"two documents":       {"pub: 127.0.0.1:1\n---\npub: 127.0.0.1:1\n", "", nil, []string{"FILE: more than one document"}},
		"no YAML":             {"\t\x00: [", "", nil, []string{"FILE: yaml: "}},
		"no file":             {"", "--config /nonexistent.yaml", nil, []string{"configuration file: open /nonexistent.yaml"}},
		"missing value":       {"", "--pub", nil, []string{"--pub: "}},
		"open to all":         {"pub: 0.0.0.0:9191\n", "", nil, []string{"FILE:1: pub: "}},
	} {
		t.Run(name, func(t *testing.T) {
			args, env := strings.Fields(c.args), c.env
			where := file(t, c.file)
			if c.file != "" {
				env = append(env, "KATEWAY_CONFIG="+where)
			}
			var stderr bytes.Buffer
			_, err := parse(nil, args, env, io.Discard, io.Discard)
			report(&stderr, err)
			got := strings.Split(strings.TrimSpace(stderr.String()), "\n")
			if stderr.Len() == 0 {
				got = nil
			}
			if len(got) != len(c.want) {
				t.Errorf("%d faults; want %d\n%s", len(got), len(c.want), &stderr)
			}
			for _, want := range c.want {
				want = "kateway: " + strings.ReplaceAll(want, "FILE", where)
				if !slices.ContainsFunc(got, func(line string) bool { return strings.HasPrefix(line, want) }) {
					t.Errorf("no %q in\n%s", want, &stderr)
				}
			}
		})
	}
}

// Each option of the gateway is explained with its default, and nothing is left to be filled in.
func TestHelp(t *testing.T) {
	var out bytes.Buffer
	if code := run(nil, []string{"serve", "--help"}, nil, nil, &out, io.Discard); code != exitOK {
		t.Errorf("code %d", code)
	}
	text := strings.Join(strings.Fields(out.String()), " ")
	for _, want := range []string{"--pub=ADDR", "127.0.0.1:9191", "--tls-cert=FILE", "--max-header-fields=N", "(default: 64)", "--drain-limit=TIME", "KATEWAY_LOG_LEVEL", "--config=FILE"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	if strings.Contains(text, "${") {
		t.Errorf("left over: %s", text)
	}
	if code := run(nil, []string{"--help"}, nil, nil, &out, io.Discard); code != exitOK {
		t.Errorf("code %d", code)
	}
}

func TestCheckAndVersion(t *testing.T) {
	good, bad := file(t, "pub: 127.0.0.1:1\n"), file(t, "pbu: 1\nman: x\n")
	var out, errOut bytes.Buffer
	// The environment is the process's to be, not the file's.
	if code := run(nil, []string{"config", "check", good}, []string{"KATEWAY_NONSENSE=1"}, nil, &out, &errOut); code != exitOK || out.String() != good+": ok\n" || errOut.Len() > 0 {
		t.Errorf("%d %q %q", code, &out, &errOut)
	}
	if code := run(nil, []string{"config", "check", bad}, nil, nil, io.Discard, &errOut); code != exitUsage || strings.Count(errOut.String(), "\n") != 2 {
		t.Errorf("%d %q", code, &errOut)
	}
	if code := run(nil, []string{"config"}, nil, nil, io.Discard, io.Discard); code != exitUsage {
		t.Errorf("%d", code)
	}
	out.Reset()
	if code := run(nil, []string{"version"}, []string{"KATEWAY_NONSENSE=1"}, nil, &out, io.Discard); code != exitOK || !strings.HasPrefix(out.String(), "kateway ") {
		t.Errorf("%d %q", code, &out)
	}
}

func TestPluginsWithOptions(t *testing.T) {
	read := func(o plugins.Options) (plugins.Make, error) {
		var v struct{ Wait time.Duration }
		return nil, o.Into(&v)
	}
	own := plugins.Table{"one": {Read: read}, "two": {Read: read}}
	for _, tc := range []struct {
		text  string
		args  []string
		chain []string
		fault string
	}{
		{"plugins: one, two", nil, []string{"one", "two"}, ""},
		{"plugins: [two, one]", nil, []string{"two", "one"}, ""},
		{"plugins:\n  - two:\n      wait: 3s\n  - one", nil, []string{"two", "one"}, ""},
		{"plugins:\n  two: {wait: 3s}\n  one:", nil, []string{"two", "one"}, ""},
		{"plugins:\n  two: {wait: 3s}\n  one:", []string{"--plugins", "one"}, []string{"one"}, ""},
		{"plugins:\n  two: {waits: 3s}", nil, nil, "waits"},
		{"plugins:\n  two: {waits: 3s}", []string{"--plugins", "one"}, nil, "waits"},
		{"plugins:\n  three: {}", nil, nil, "three"},
		{"plugins:\n  three: {}", []string{"--plugins", "one"}, nil, "three"},
		{"plugins:\n  - [one]", nil, nil, "an element must be"},
	} {
		in, err := parse(own, append([]string{"--config", file(t, tc.text)}, tc.args...), nil, io.Discard, io.Discard)
		switch {
		case tc.fault == "" && (err != nil || !slices.Equal(in.config.Plugins, tc.chain)):
			t.Errorf("%q: %v, %v", tc.text, in.config.Plugins, err)
		case tc.fault != "" && (err == nil || !strings.Contains(err.Error(), tc.fault)):
			t.Errorf("%q: %v", tc.text, err)
		}
	}
}

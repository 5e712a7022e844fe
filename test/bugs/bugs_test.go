package bugs

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// bug is one that somebody might write.
type bug struct {
	name  string
	loses string // what an operator would lose by it
	file  string // from the module's root
	old   string // what stands in the file, once
	new   string // what the bug makes of it
	pkg   string // where the test is
	test  string // the test that is to find it; with a slash, one of its subtests
	says  string // what the test has to say then, where it is not enough that it fails
}

const (
	runs    = 5               // of a test, in which it has to find the bug
	longest = 5 * time.Minute // that they may take, without the build
)

func all() []bug {
	return slices.Concat(storeBugs(), groupBugs(), pubBugs(), subBugs(), guardBugs(), clusterBugs())
}

// Each bug turns its test red. Without KATEWAY_TEST_BUGS=all it is only looked at whether the table still fits the code.
func TestBugs(t *testing.T) {
	list := all()
	if os.Getenv("KATEWAY_TEST_BUGS") != "all" {
		t.Skip("KATEWAY_TEST_BUGS=all plants the bugs, as make bugs does")
	}
	for _, b := range list {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			b.find(t)
		})
	}
}

// Without a bug the same tests are green: what is red with one is red for its sake.
func TestWithoutBugs(t *testing.T) {
	if os.Getenv("KATEWAY_TEST_BUGS") != "all" {
		t.Skip("KATEWAY_TEST_BUGS=all runs the tests")
	}
	tests := map[string][]string{} // by package
	for _, b := range all() {
		if !slices.Contains(tests[b.pkg], b.test) {
			tests[b.pkg] = append(tests[b.pkg], b.test)
		}
	}
	for _, pkg := range slices.Sorted(maps.Keys(tests)) {
		t.Run(strings.ReplaceAll(pkg, "/", "_"), func(t *testing.T) {
			t.Parallel()
			if out, _, err := goTest(t, nil, pkg, tests[pkg]...); err != nil {
				t.Errorf("%s %v without a bug: %v\n%s", pkg, tests[pkg], err, end(out))
			}
		})
	}
}

// The table fits the code: what a bug replaces is there once, and the test that is to find it exists.
func TestTable(t *testing.T) {
	names := map[string]bool{}
	for _, b := range all() {
		if names[b.name] {
			t.Errorf("%s is there twice", b.name)
		}
		names[b.name] = true
		if b.loses == "" || b.old == b.new {
			t.Errorf("%s says nothing, or changes nothing", b.name)
		}
		if _, err := b.planted(); err != nil {
			t.Error(err)
		}
		name, _, _ := strings.Cut(b.test, "/")
		if !b.testIsThere(t, name) {
			t.Errorf("%s: there is no %s in %s", b.name, name, b.pkg)
		}
	}
	if len(names) < 24 {
		t.Errorf("only %d bugs", len(names))
	}
}

func (b *bug) testIsThere(t *testing.T, name string) bool {
	files, err := filepath.Glob(filepath.Join(root, b.pkg, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(files, func(f string) bool {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Contains(text, []byte("\nfunc "+name+"(t *testing.T"))
	})
}

const root = "../.."

// planted is the text of the file with the bug in it.
func (b *bug) planted() ([]byte, error) {
	text, err := os.ReadFile(filepath.Join(root, b.file))
	if err != nil {
		return nil, err
	}
	if n := strings.Count(string(text), b.old); n != 1 {
		return nil, fmt.Errorf("%s: what it replaces is %d times in %s, not once; bring the table in step with the code:\n%s", b.name, n, b.file, b.old)
	}
	return []byte(strings.Replace(string(text), b.old, b.new, 1)), nil
}

// find plants the bug and has its test run until it is red.
func (b *bug) find(t *testing.T) {
	text, err := b.planted()
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	out, used, err := goTest(t, b.overlay(t, text), b.pkg, b.test)
	took := time.Since(began).Round(100 * time.Millisecond)
	switch {
	case err == nil:
		t.Errorf("%s: %s in %s stays green in %d runs", b.loses, b.test, b.pkg, runs)
	case !b.red(out):
		t.Errorf("it was not the test that failed, by what it is there for: %v\n%s", err, end(out))
	default:
		t.Logf("%s: found by %s in %v, %v of processor time", b.loses, b.test, took, used.Round(100*time.Millisecond))
	}
}

// red reports whether it was the test that failed, rather than the build, and by what it had to say.
func (b *bug) red(out []byte) bool {
	failed := regexp.MustCompile(`(?m)^\s*--- FAIL: ` + regexp.QuoteMeta(b.test) + `\b`)
	return failed.Match(out) && bytes.Contains(out, []byte(b.says))
}

// overlay writes the file with the bug, and what tells the go command to take it.
func (b *bug) overlay(t *testing.T, text []byte) []string {
	dir := t.TempDir()
	file, err := filepath.Abs(filepath.Join(root, b.file))
	if err != nil {
		t.Fatal(err)
	}
	copied, list := filepath.Join(dir, filepath.Base(b.file)), filepath.Join(dir, "overlay.json")
	said, err := json.Marshal(map[string]any{"Replace": map[string]string{file: copied}})
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{copied: text, list: said} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return []string{"-overlay=" + list}
}

// goTest runs tests of a package: once without a bug, else until one fails. The flags are in the environment, so that a test that
// builds the gateway builds it with the bug; they are those of make build, whose work is used again.
func goTest(t *testing.T, flags []string, pkg string, tests ...string) (out []byte, used time.Duration, err error) {
	count := 1
	if flags != nil {
		count = runs
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*longest)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "test", "-vet=off", "-failfast", fmt.Sprint("-count=", count), fmt.Sprint("-timeout=", longest), "-run="+pattern(tests), "./"+pkg)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS="+strings.Join(append([]string{os.Getenv("GOFLAGS"), "-trimpath"}, flags...), " "), "KATEWAY_TEST_KAFKA=off")
	out, err = cmd.CombinedOutput()
	return out, cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), err
}

// pattern is what -run wants: names of one level are alternatives. A test is run as a whole where another of the same name's
// subtests are asked for as well.
func pattern(tests []string) string {
	var levels [][]string
	for _, name := range tests {
		for i, part := range strings.Split(name, "/") {
			if i == len(levels) {
				levels = append(levels, nil)
			}
			levels[i] = append(levels[i], regexp.QuoteMeta(part))
		}
	}
	text := make([]string, len(levels))
	for i, parts := range levels {
		text[i] = "^(" + strings.Join(parts, "|") + ")$"
	}
	return strings.Join(text, "/")
}

// end is the end of an output.
func end(out []byte) string {
	const most = 4000
	if len(out) > most {
		return "..." + string(out[len(out)-most:])
	}
	return string(out)
}

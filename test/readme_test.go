package test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kateway/kateway/internal/testkit"
)

// step is one block of commands of a document and what it is said to print.
type step struct {
	where    string // file and line
	commands string // word for word
	prints   string // "": nothing is said
	stream   string // what the stream of the first terminal is said to print then
}

// TestDocumentedLinesWork runs the commands of the README's "Try it" and of docs/api.md, word for word, against both stores.
// A block of text is the output of the commands before it; a second block of text is what the stream in the first
// terminal prints. "..." stands for anything.
func TestDocumentedLinesWork(t *testing.T) {
	for _, program := range []string{"bash", "curl"} {
		if _, err := exec.LookPath(program); err != nil {
			testkit.Missing(t, program, err)
		}
	}
	for _, doc := range []struct{ file, begin, end, topic string }{
		{"../README.md", "\n## Try it\n", "\n## With", "default.greetings.v1"},
		{"../docs/api.md", "\n## Publish\n", "\n## Running", "default.orders.v1"},
	} {
		steps := stepsOf(t, doc.file, doc.begin, doc.end)
		t.Run(filepath.Base(doc.file), func(t *testing.T) {
			t.Run("embedded", func(t *testing.T) {
				t.Parallel()
				runSteps(t, steps, "--data", t.TempDir())
			})
			t.Run("kafka", func(t *testing.T) {
				t.Parallel()
				kafka := testkit.Kafka(t) // of its own: the topic must be empty
				// The documents show one partition, as the embedded store has them.
				if _, err := kafka.Tool(t.Context(), "org.apache.kafka.tools.TopicCommand", "--create", "--topic", doc.topic, "--partitions", "1"); err != nil {
					t.Fatal(err)
				}
				runSteps(t, steps, "--data", t.TempDir(), "--kafka", kafka.Addrs()[0])
			})
		})
	}
}

func runSteps(t *testing.T, steps []step, flags ...string) {
	g := launch(t, flags...)
	sh := newTerminal(t, g)
	var first *bufio.Reader // what the stream prints
	if endless := steps[0]; strings.HasPrefix(endless.commands, "curl -N") && endless.prints == "" {
		first = bufio.NewReader(sh.background(endless.commands))
		steps = steps[1:]
	}
	for _, s := range steps {
		if out := sh.run(s.commands); s.prints != "" && !matches(s.prints, out) {
			t.Errorf("%s: %s\nprints\n%swant\n%s", s.where, s.commands, out, s.prints)
		}
		if s.stream == "" {
			continue
		}
		line, err := first.ReadString('\n')
		if err != nil || !matches(s.stream, line) {
			t.Errorf("%s: the stream prints\n%s(%v) want\n%s", s.where, line, err, s.stream)
		}
	}
}

// stepsOf reads the steps of a part of a document.
func stepsOf(t *testing.T, file, begin, end string) []step {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, text, found := strings.Cut(string(b), begin)
	if !found {
		t.Fatalf("%s has no %q", file, begin)
	}
	text, _, _ = strings.Cut(text, end)
	first := strings.Count(before+begin, "\n") + 1
	var steps []step
	for _, m := range regexp.MustCompile("(?s)\n```(sh|text)\n(.*?)```\n").FindAllStringSubmatchIndex(text, -1) {
		kind, body := text[m[2]:m[3]], text[m[4]:m[5]]
		last := len(steps) - 1
		switch {
		case kind == "sh":
			steps = append(steps, step{where: fmt.Sprintf("%s:%d", file, first+strings.Count(text[:m[4]], "\n")), commands: body})
		case last < 0:
			t.Fatalf("%s: output before the first command", file)
		case steps[last].prints == "":
			steps[last].prints = body
		default:
			steps[last].stream = body
		}
	}
	if len(steps) < 5 {
		t.Fatalf("%s: only %d blocks of commands", file, len(steps))
	}
	return steps
}

// matches compares line by line; "..." stands for anything, on a line of its own for any lines, blank lines at the end for nothing.
func matches(want, got string) bool {
	dots := regexp.QuoteMeta("...")
	lines := strings.Split(regexp.QuoteMeta(strings.TrimRight(want, "\n")), "\n")
	for i, line := range lines {
		if line == dots {
			lines[i] = `(?s:.*)`
		}
	}
	pattern := strings.ReplaceAll(strings.Join(lines, "\n"), dots, ".*")
	return regexp.MustCompile(`\A` + pattern + `\z`).MatchString(strings.TrimRight(got, "\n"))
}

// terminal is a bash that keeps its variables from block to block. In it the addresses of the documentation lead to the
// gateway's real ones: curl's own configuration does that, the lines stay as they are.
type terminal struct {
	t     *testing.T
	dir   string // where it works; "" is the test's own
	env   []string
	stdin io.Writer
	out   *bufio.Reader
	stop  context.CancelFunc // ends the shell, not what it started
}

func newTerminal(t *testing.T, g *gateway) *terminal {
	t.Helper()
	leads := map[string]string{}
	for documented, base := range map[string]string{"127.0.0.1:9191": g.pub, "127.0.0.1:9193": g.man} {
		u, err := url.Parse(base)
		if err != nil {
			t.Fatal(err)
		}
		leads[documented] = u.Host
	}
	return openTerminal(t, "", leads)
}

// openTerminal starts a shell that works in dir; leads says where the documented addresses lead.
func openTerminal(t *testing.T, dir string, leads map[string]string, env ...string) *terminal {
	t.Helper()
	home := t.TempDir()
	var rc strings.Builder
	for documented, addr := range leads {
		fmt.Fprintf(&rc, "connect-to = \"%s:%s\"\n", documented, addr)
	}
	if err := os.WriteFile(filepath.Join(home, ".curlrc"), []byte(rc.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	// The gateway takes every KATEWAY_* for an option of its own, and refuses those that are none.
	own := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "KATEWAY_") })
	term := &terminal{t: t, dir: dir, env: append(own, append(env, "CURL_HOME="+home, "HOME="+home)...)}
	ctx, stop := context.WithCancel(context.Background())
	t.Cleanup(stop)
	term.stop = stop
	term.stdin, term.out = term.bash(ctx, "bash")
	return term
}

// bash starts a shell that ends with the test, with all that it started.
func (s *terminal) bash(ctx context.Context, args ...string) (io.Writer, *bufio.Reader) {
	s.t.Helper()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env, cmd.Dir = s.env, s.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait() // killed
	})
	return stdin, bufio.NewReader(stdout)
}

// background runs commands in a terminal of their own, which stays open.
func (s *terminal) background(commands string) io.Reader {
	s.t.Helper()
	stdin, out := s.bash(context.Background(), "bash")
	if _, err := io.WriteString(stdin, commands); err != nil {
		s.t.Fatal(err)
	}
	return out
}

// run runs commands and answers what they print.
func (s *terminal) run(commands string) string {
	s.t.Helper()
	const end = "--- end of block ---"
	if _, err := fmt.Fprintf(s.stdin, "%s\necho; echo '%s'\n", commands, end); err != nil {
		s.t.Fatal(err)
	}
	slow := time.AfterFunc(2*patience, func() {
		s.t.Errorf("still running after %v:\n%s", 2*patience, commands)
		s.stop() // so that reading ends
	})
	defer slow.Stop()
	var b strings.Builder
	for {
		line, err := s.out.ReadString('\n')
		if err != nil {
			s.t.Fatalf("%s\nafter %q: %v", commands, b.String(), err)
		}
		if strings.TrimSpace(line) == end {
			return b.String()
		}
		b.WriteString(line)
	}
}

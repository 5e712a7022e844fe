package test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kateway/kateway/test/storm"
)

// gateway is one process of kateway.
type gateway struct {
	t        *testing.T
	id       string // in a fleet
	pub, man string // base URLs; pub's role sub is with it
	cmd      *exec.Cmd
	log      *logTail
	exited   chan struct{} // closed when the process has ended
	err      error         // how it ended; to be read after exited
}

// launch starts kateway on free ports and returns when it is ready. It ends with the test at the latest.
func launch(t *testing.T, flags ...string) *gateway {
	t.Helper()
	g := launchUnready(t, flags...)
	g.untilReady()
	return g
}

func (g *gateway) untilReady() {
	g.t.Helper()
	t, c := g.t, g.client("default")
	waitFor(t, "the gateway to be ready", func() bool {
		a, err := c.do("GET", "/ready?role=pub", nil)
		return err == nil && a.StatusCode == 200
	})
}

// launchUnready is launch for a gateway that may not be ready for long.
func launchUnready(t *testing.T, flags ...string) *gateway {
	t.Helper()
	return launchBy(t, []string{binary}, flags...)
}

// launchBy starts it by a command that ends in the binary.
func launchBy(t *testing.T, command []string, flags ...string) *gateway {
	t.Helper()
	args := []string{"serve", "--pub", "127.0.0.1:0", "--man", "127.0.0.1:0", "--log-format", "json", "--log-level", "debug"}
	g := &gateway{t: t, cmd: exec.Command(command[0], slices.Concat(command[1:], args, flags)...), log: newLogTail(), exited: make(chan struct{})}
	// The gateway takes every KATEWAY_* for an option of its own, and refuses those that are none.
	g.cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "KATEWAY_") })
	g.cmd.Stderr = g.log
	g.cmd.Stdout = g.log
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		g.err = g.cmd.Wait()
		close(g.exited)
	}()
	t.Cleanup(func() {
		g.end(syscall.SIGKILL)
		if t.Failed() {
			t.Logf("the log of kateway %s:\n%s", strings.Join(flags, " "), g.log.tail())
		}
	})
	g.pub, g.man = g.await("pub"), g.await("man")
	return g
}

// await answers the base URL of a role, once the log names it.
func (g *gateway) await(role string) string {
	g.t.Helper()
	select {
	case addr := <-g.log.address(role):
		return "http://" + addr
	case <-g.exited:
		g.t.Fatalf("kateway ended: %v\n%s", g.err, g.log.tail())
	case <-time.After(patience):
		g.t.Fatalf("no address of %s in the log:\n%s", role, g.log.tail())
	}
	panic("unreachable")
}

// stop ends the gateway as an operator does, and checks that it ended well.
func (g *gateway) stop() {
	g.t.Helper()
	g.end(syscall.SIGTERM)
	if g.err != nil {
		g.t.Errorf("after SIGTERM: %v", g.err)
	}
}

// kill is kill -9.
func (g *gateway) kill() { g.end(syscall.SIGKILL) }

func (g *gateway) end(sig syscall.Signal) {
	g.t.Helper()
	_ = g.cmd.Process.Signal(sig) // it may have ended by itself
	select {
	case <-g.exited:
	case <-time.After(2 * patience):
		g.t.Errorf("still running %v after %v", 2*patience, sig)
		_ = g.cmd.Process.Kill()
		<-g.exited
	}
}

// logTail is where a gateway logs to: it finds the addresses and keeps the last lines.
type logTail struct {
	mu    sync.Mutex
	rest  []byte   // a line that has no end yet
	lines []string // the last ones
	addrs map[string]chan string
}

func newLogTail() *logTail {
	return &logTail{addrs: map[string]chan string{"pub": make(chan string, 1), "sub": make(chan string, 1), "man": make(chan string, 1), "peer": make(chan string, 1)}}
}

var _ io.Writer = (*logTail)(nil)

func (l *logTail) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rest = append(l.rest, b...)
	for {
		line, rest, ok := bytes.Cut(l.rest, []byte("\n"))
		if !ok {
			return len(b), nil
		}
		l.line(string(line))
		l.rest = rest
	}
}

func (l *logTail) line(s string) {
	l.lines = append(l.lines, s)
	if len(l.lines) > 20_000 { // more than any gateway of the tests that look for something writes
		l.lines = slices.Clone(l.lines[len(l.lines)/2:])
	}
	var entry struct {
		Msg     string `json:"msg"`
		Address string `json:"address"`
		Roles   string `json:"roles"`
	}
	if json.Unmarshal([]byte(s), &entry) != nil || entry.Msg != "listening" {
		return
	}
	for _, role := range strings.Split(entry.Roles, ",") {
		select {
		case l.addrs[role] <- entry.Address:
		default:
		}
	}
}

func (l *logTail) address(role string) <-chan string { return l.addrs[role] }

// tail is the last lines, for whoever reads what a test says.
func (l *logTail) tail() string { return l.last(200) }

// last is the last n lines, as far as they are kept.
func (l *logTail) last(n int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines[max(len(l.lines)-n, 0):], "\n")
}

// waitFor looks until the condition holds.
func waitFor(t *testing.T, what string, holds func() bool) {
	t.Helper()
	storm.WaitFor(t, what, holds)
}

// site is where a gateway of a scenario lives: a store of some kind, which outlasts the process, and an app of its own.
type site struct {
	kind  string
	flags []string
	app   string
}

func (s *site) start(t *testing.T) *gateway {
	t.Helper()
	return launch(t, s.flags...)
}

// eachStore runs the scenario once per kind of store, both at a time: most of it is waiting.
func eachStore(t *testing.T, scenario func(t *testing.T, s *site)) {
	t.Helper()
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		scenario(t, &site{"embedded", []string{"--data", t.TempDir()}, appOf(t)})
	})
	t.Run("kafka", func(t *testing.T) {
		t.Parallel()
		scenario(t, &site{"kafka", []string{"--data", t.TempDir(), "--kafka", brokers(t)}, appOf(t)})
	})
}

// appOf is an app of the test's own, since the brokers are shared.
func appOf(t *testing.T) string {
	name := strings.NewReplacer("/embedded", "", "/kafka", "", "/", "-", "_", "-", ",", "").Replace(t.Name())
	return fmt.Sprintf("%.20s-%x", strings.TrimPrefix(name, "Test"), time.Now().UnixNano()&0xffffffff)
}

// brokers are those of the cluster that all tests share.
func brokers(t *testing.T) string {
	t.Helper()
	return strings.Join(cluster.Get(t).Addrs(), ",")
}

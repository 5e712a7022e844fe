package test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// heir builds a next version that goes wrong.
func heir(t *testing.T, mode string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), mode)
	build := exec.Command("go", "build", "-o", name, "-ldflags", "-X main.mode="+mode, "./heir")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building it: %v\n%s", err, out)
	}
	return name
}

func script(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(name, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return name
}

// A next version, or a configuration, that is no good changes nothing: the process that serves goes on, no request fails,
// and the log says what was wrong. A good one takes over afterwards.
func TestBadNextVersionChangesNothing(t *testing.T) {
	for _, tt := range []struct {
		name string
		next func(t *testing.T) string // nil: ours
		harm func(t *testing.T, file, data string)
		why  string
	}{
		{"exits", func(t *testing.T) string { return script(t, "exit 7") }, nil, "exit status 7"},
		{"exits well", func(t *testing.T) string { return script(t, "exit 0") }, nil, "exit status 0"},
		{"is no program", func(t *testing.T) string { return write(t, "garbage") }, nil, "exec format error"},
		{"hangs", func(t *testing.T) string { return script(t, "exec sleep 300") }, nil, "not prepared in time"},
		{"forges the token", func(t *testing.T) string { return heir(t, "forges") }, nil, "does not know the token"},
		{"dies with the store", func(t *testing.T) string { return heir(t, "dies") }, nil, "exit status 5"},
		{"never serves", func(t *testing.T) string { return heir(t, "never") }, nil, "not serving in time"},
		{"bad configuration", nil, func(t *testing.T, file, _ string) { overwrite(t, file, "partitions: many\n") }, "exit status 2"},
		{"address in use", nil, func(t *testing.T, file, _ string) { overwrite(t, file, "sub: "+taken(t)+"\n") }, "exit status 1"},
		{"newer store", nil, func(t *testing.T, _, data string) {
			overwrite(t, filepath.Join(data, "store", "FORMAT"), "kateway embedded store, format 2\n")
		}, "exit status 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			data := t.TempDir()
			file := write(t, "partitions: 1\n")
			l := launchLine(t, "--data", data, "--config", file, "--drain-grace", "500ms")
			c := &patrons{t: t, base: l.pub, addr: strings.TrimPrefix(l.pub, "http://"), app: appOf(t), stored: map[string]bool{}}
			ctx, end := context.WithCancel(t.Context())
			defer end()
			var wg, reading sync.WaitGroup
			wg.Go(func() { c.raw(ctx, "keep-alive", false, 1, slowly(c.plain)) })
			wg.Go(func() { c.raw(ctx, "new connection", true, 1, slowly(c.plain)) })
			read, enough := context.WithCancel(t.Context())
			defer enough()
			g := c.group("g")
			reading.Go(func() { c.events(read, g) })
			waitFor(t, "load", func() bool { return c.served.Load() > 20 })
			if tt.next != nil {
				l.install(t, tt.next(t))
			}
			format, _ := os.ReadFile(filepath.Join(data, "store", "FORMAT"))
			if tt.harm != nil {
				tt.harm(t, file, data)
			}
			pid := l.pid()
			if why := l.fails(t); !strings.Contains(why, tt.why) {
				t.Errorf("the log says %q; want %q", why, tt.why)
			}
			before := c.served.Load()
			waitFor(t, "publishes to go on", func() bool { return c.served.Load() > before+20 })
			if l.pid() != pid || syscall.Kill(pid, 0) != nil {
				t.Error("the process that served is gone")
			}
			l.install(t, binary)
			overwrite(t, file, "partitions: 1\n")
			overwrite(t, filepath.Join(data, "store", "FORMAT"), string(format))
			l.swap(t)
			before = c.served.Load()
			waitFor(t, "publishes to go on", func() bool { return c.served.Load() > before+20 })
			end()
			wg.Wait()
			c.verify(enough)
			reading.Wait()
			t.Logf("%d requests, %d failed; the longest publish took %v", c.served.Load(), c.failed.Load(), c.stall)
		})
	}
}

// slowly leaves the machine some time for others.
func slowly(write sender) sender {
	return func(w io.Writer, value string) error {
		<-time.After(5 * time.Millisecond)
		return write(w, value)
	}
}

func write(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	overwrite(t, name, text)
	return name
}

func overwrite(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// taken is an address that somebody else listens on.
func taken(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln.Addr().String()
}

// Signals during a swap are not lost: another swap follows it, an end ends what serves then.
func TestSignalsDuringSwap(t *testing.T) {
	t.Parallel()
	l := launchLine(t, "--data", t.TempDir(), "--drain-delay", "0s", "--drain-grace", "0s")
	client := l.client("a")
	client.publish("t", "", "x")
	first := l.cmd.Process.Pid
	_ = syscall.Kill(first, syscall.SIGUSR2)
	waitFor(t, "a new process", func() bool { return len(l.started()) == 1 })
	_ = syscall.Kill(first, syscall.SIGUSR2) // the old one has it done, whatever it is at
	waitFor(t, "two swaps", func() bool { return len(l.said("the new process serves")) == 2 })
	client.publish("t", "", "y")
	pid := l.pid()
	gone(t, first)
	_ = syscall.Kill(pid, syscall.SIGUSR2)
	_ = syscall.Kill(pid, syscall.SIGHUP)
	_ = syscall.Kill(pid, syscall.SIGTERM)
	for _, p := range append(l.started(), first) {
		gone(t, p)
	}
	if n := len(l.said("second signal: ending at once")); n > 0 {
		t.Errorf("%d processes did not stop in order", n)
	}
}

// An end that comes while a new process hangs is an end of both, in order.
func TestEndDuringSwap(t *testing.T) {
	t.Parallel()
	l := launchLine(t, "--data", t.TempDir(), "--drain-delay", "0s", "--drain-grace", "0s")
	l.install(t, script(t, "exec sleep 300"))
	l.signal(syscall.SIGUSR2)
	waitFor(t, "a new process", func() bool { return len(l.started()) == 1 })
	began := time.Now()
	l.signal(syscall.SIGTERM)
	<-l.exited
	if l.err != nil {
		t.Errorf("after SIGTERM: %v", l.err)
	}
	gone(t, l.started()[0])
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
}

// Nobody but the process that was started can have what is handed over: there is nothing to connect to, whoever is told a
// token that is not his is no heir, and a process that is not started by one that hands over does not believe it is.
func TestRogueProcessGetsNothing(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	l := launchLine(t, "--data", data)
	before := listening(t)
	l.install(t, script(t, "exec sleep 300"))
	l.signal(syscall.SIGUSR2)
	waitFor(t, "a new process", func() bool { return len(l.started()) == 1 })
	for name := range listening(t) {
		if !before[name] && strings.Contains(name, "kateway") {
			t.Errorf("while it waits for the new process something listens at %s", name)
		}
	}
	for _, dir := range []string{data, os.TempDir()} {
		files, _ := filepath.Glob(filepath.Join(dir, "*"))
		for _, f := range files {
			if info, err := os.Lstat(f); err == nil && info.Mode()&os.ModeSocket != 0 && strings.Contains(f, "kateway") {
				t.Errorf("there is a socket %s", f)
			}
		}
	}
	inherited, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", l.started()[0]))
	if err != nil || len(inherited) == 0 {
		t.Fatal("the new process has no files", err)
	}
	sockets := 0
	for _, f := range inherited {
		if to, err := os.Readlink(f); err == nil && strings.HasPrefix(to, "socket:") {
			sockets++
		}
	}
	if sockets != 1 {
		t.Errorf("before it has shown who it is the new process has %d sockets; want the pair alone", sockets)
	}
	for _, value := range []string{"3:" + strings.Repeat("A", 26), "99:x", "x", "0:x"} {
		cmd := exec.Command(binary, "serve", "--pub", "127.0.0.1:0", "--man", "127.0.0.1:0", "--data", t.TempDir())
		cmd.Env = []string{"KATEWAY_HANDOVER=" + value}
		cmd.ExtraFiles = []*os.File{os.Stdin}
		if out, err := cmd.CombinedOutput(); err == nil || cmd.ProcessState.ExitCode() != 1 {
			t.Errorf("KATEWAY_HANDOVER=%s: %v %s", value, err, out)
		}
	}
	l.client("a").want(http.StatusCreated, "POST", "/v1/msgs/t/v1", strings.NewReader("x"))
}

// listening are the names of unix sockets that take connections.
func listening(t *testing.T) map[string]bool {
	t.Helper()
	b, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		t.Skip(err)
	}
	names := map[string]bool{}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) >= 8 && f[3] == "00010000" {
			names[f[7]] = true
		}
	}
	return names
}

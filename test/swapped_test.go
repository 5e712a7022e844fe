package test

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// line of kateway's line: processes that take over from each other, on the same addresses.
type line struct {
	*gateway
	binary string // what is started next; a path of this test's own
}

// launchLine starts the first. The binary is a copy that a test may replace. What has no dash before an = is for the
// environment.
func launchLine(t *testing.T, flags ...string) *line {
	t.Helper()
	var environ []string
	for len(flags) > 0 && flags[0][0] != '-' {
		environ, flags = append(environ, flags[0]), flags[1:]
	}
	l := &line{binary: filepath.Join(t.TempDir(), "kateway")}
	l.install(t, binary)
	args := []string{"serve", "--pub", "127.0.0.1:0", "--man", "127.0.0.1:0", "--log-format", "json"}
	g := &gateway{t: t, cmd: exec.Command(l.binary, append(args, flags...)...), log: newLogTail(), exited: make(chan struct{})}
	g.cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "KATEWAY_") })
	g.cmd.Env = append(g.cmd.Env, environ...)
	l.gateway = g
	r, w, err := os.Pipe() // a file, which later processes may have too when the first is gone
	if err != nil {
		t.Fatal(err)
	}
	g.cmd.Stderr, g.cmd.Stdout = w, w
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(g.log, r)
		r.Close()
	}()
	go func() {
		g.err = g.cmd.Wait()
		close(g.exited)
	}()
	t.Cleanup(func() {
		for _, pid := range append(l.started(), g.cmd.Process.Pid) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		<-g.exited
		<-read // the last of them has ended
		if t.Failed() {
			t.Logf("the log of kateway %s:\n%s", strings.Join(flags, " "), g.log.tail())
		}
	})
	g.pub, g.man = g.await("pub"), g.await("man")
	return l
}

// install puts a program in the place of ours, as an upgrade does.
func (l *line) install(t *testing.T, program string) {
	t.Helper()
	b, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(l.binary+".new", b, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(l.binary+".new", l.binary); err != nil {
		t.Fatal(err)
	}
}

// said are the lines of the log with this message.
func (l *line) said(msg string) (list []map[string]any) {
	for s := range strings.Lines(l.log.last(20_000)) {
		var m map[string]any
		if json.Unmarshal([]byte(s), &m) == nil && m["msg"] == msg {
			list = append(list, m)
		}
	}
	return list
}

func pids(list []map[string]any) (out []int) {
	for _, m := range list {
		pid, _ := m["pid"].(float64)
		out = append(out, int(pid))
	}
	return out
}

func (l *line) started() []int { return pids(l.said("the new process was started")) }

// pid is the process that serves.
func (l *line) pid() int {
	if all := pids(l.said("the new process serves")); len(all) > 0 {
		return all[len(all)-1]
	}
	return l.cmd.Process.Pid
}

func (l *line) signal(sig syscall.Signal) { _ = syscall.Kill(l.pid(), sig) }

// swap has a new process take over, and returns when it serves.
func (l *line) swap(t *testing.T) {
	t.Helper()
	before := len(l.said("the new process serves"))
	l.signal(syscall.SIGUSR2)
	waitFor(t, "the new process to serve", func() bool { return len(l.said("the new process serves")) > before })
}

// fails has a new process fail to take over, and answers why, by the log.
func (l *line) fails(t *testing.T) string {
	t.Helper()
	const says = "no new process has taken over: all stays as it was"
	before := len(l.said(says))
	l.signal(syscall.SIGUSR2)
	waitFor(t, "the new process to fail", func() bool { return len(l.said(says)) > before })
	all := l.said(says)
	why, _ := all[len(all)-1]["error"].(string)
	return why
}

// gone waits until a process of the line has ended.
func gone(t *testing.T, pid int) {
	t.Helper()
	waitFor(t, "a process to end", func() bool { return syscall.Kill(pid, 0) != nil })
}

package faults

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kateway/kateway/internal/testkit"
	"github.com/kateway/kateway/test/storm"
)

// gateway is a machine that kateway runs on, one process after the other, always with the same addresses and directory.
type gateway struct {
	*host
	t    *testing.T
	args []string
	dir  string
	log  string
	web  *storm.Client // of its management API

	mu  sync.Mutex
	pid int // of the process that serves
}

const pubPort, manPort = "9191", "9193"

func newGateway(t *testing.T, h *host, dir, kafka, zk string) *gateway {
	t.Helper()
	g := &gateway{host: h, t: t, dir: filepath.Join(dir, h.name), log: filepath.Join(dir, h.name+".log")}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	// A disk of its own, which can be full.
	if err := syscall.Mount("tmpfs", g.dir, "tmpfs", 0, "size=192m"); err != nil {
		testkit.Missing(t, "a file system of its own for each gateway", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(g.dir, syscall.MNT_DETACH) })
	at := func(port string) string { return h.ip + ":" + port }
	g.web = &storm.Client{HTTP: storm.NewHTTP(t), Base: "http://" + at(manPort)}
	g.args = append(h.command(), binary, "serve", "--id", h.name, "--data", g.dir, "--kafka", kafka, "--zk", zk, "--insecure",
		"--pub", at(pubPort), "--man", at(manPort), "--peer", at("9194"), "--log-format", "json", "--log-level", "info")
	return g
}

func (g *gateway) door() storm.Door {
	return storm.Door{Name: g.name, Base: "http://" + g.ip + ":" + pubPort}
}

// start begins a process, and does not wait for it to be ready.
func (g *gateway) start() error {
	f, err := os.OpenFile(g.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	cmd := exec.Command(g.args[0], g.args[1:]...)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "KATEWAY_") })
	cmd.Stdout, cmd.Stderr = f, f
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	begun := make(chan error)
	go func() {
		runtime.LockOSThread() // the death signal comes when the thread ends that started it
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		begun <- err
		if err == nil {
			_ = cmd.Wait() // how it ends is for who ends it
		}
	}()
	if err := <-begun; err != nil {
		return err
	}
	g.setPid(cmd.Process.Pid)
	return nil
}

func (g *gateway) setPid(pid int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pid = pid
}

func (g *gateway) process() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.pid
}

// alive reports whether there is such a process that has not ended.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(rest, "Z")
}

// gone waits until the process has ended.
func gone(pid int, limit time.Duration) error {
	return until(limit, fmt.Sprintf("process %d to end", pid), func() bool { return !alive(pid) })
}

// until looks until the condition holds.
func until(limit time.Duration, what string, holds func() bool) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(limit); !holds(); <-tick.C {
		if time.Now().After(deadline) {
			return fmt.Errorf("waited %v for %s", limit, what)
		}
	}
	return nil
}

// end sends a signal that ends the process, and waits for that.
func (g *gateway) end(s syscall.Signal) error {
	pid := g.process()
	if err := syscall.Kill(pid, s); err != nil {
		return err
	}
	return gone(pid, 60*time.Second)
}

// swap has a new process take over.
func (g *gateway) swap() error {
	old := g.process()
	from := g.logged()
	if err := syscall.Kill(old, syscall.SIGUSR2); err != nil {
		return err
	}
	if err := until(90*time.Second, "the new process to serve", func() bool { return len(g.said("the new process serves", from)) > 0 }); err != nil {
		return err
	}
	pid, _ := g.said("the new process serves", from)[0]["pid"].(float64)
	g.setPid(int(pid))
	return gone(old, 60*time.Second)
}

// logged is how long the log is now.
func (g *gateway) logged() int64 {
	info, err := os.Stat(g.log)
	if err != nil {
		return 0
	}
	return info.Size()
}

// said are the lines of the log with this message, behind so many bytes.
func (g *gateway) said(msg string, from int64) (list []map[string]any) {
	f, err := os.Open(g.log)
	if err != nil {
		return nil
	}
	defer f.Close()
	if _, err := f.Seek(from, io.SeekStart); err != nil {
		return nil
	}
	b, _ := io.ReadAll(f)
	for line := range bytes.Lines(b) {
		var m map[string]any
		if json.Unmarshal(line, &m) == nil && m["msg"] == msg {
			list = append(list, m)
		}
	}
	return list
}

// ready reports whether it takes publishes.
func (g *gateway) ready() bool {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	a, err := (&storm.Client{HTTP: g.web.HTTP, Base: g.door().Base}).Exchange(ctx, http.MethodGet, "/ready?role=pub", nil)
	return err == nil && a.StatusCode == http.StatusOK
}

// spooled is how many messages wait in its spool; negative: nobody knows.
func (g *gateway) spooled() int {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	a, err := g.web.Exchange(ctx, http.MethodGet, "/v1/spool", nil)
	var s struct{ Messages int }
	if err != nil || a.StatusCode != http.StatusOK || json.Unmarshal(a.Bytes, &s) != nil {
		return -1
	}
	return s.Messages
}

var memory = regexp.MustCompile(`VmRSS:\s+(\d+) kB`)

// usage is what the process holds: resident bytes, open files, and goroutines where it tells.
func (g *gateway) usage() (rss, files int) {
	pid := g.process()
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if m := memory.FindSubmatch(b); m != nil {
		kb, _ := strconv.Atoi(string(m[1]))
		rss = kb << 10
	}
	list, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	return rss, len(list)
}

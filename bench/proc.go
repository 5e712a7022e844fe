//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	startWait      = 30 * time.Second
	profileSeconds = 6
)

// proc is a measured process.
type proc struct {
	addr, man string // man serves profiles
	cmd       *exec.Cmd
	ended     chan error
}

// gateway starts the built gateway on a store of its own, in a new directory, and waits until it is ready.
func (b *bench) gateway(ctx context.Context, flags ...string) (*proc, error) {
	dir, err := os.MkdirTemp(b.dir, "gateway-")
	if err != nil {
		return nil, err
	}
	args := append([]string{"serve", "--pub", "127.0.0.1:0", "--man", "127.0.0.1:0", "--log-format", "json", "--data", dir}, flags...)
	p, err := start(ctx, exec.CommandContext(ctx, b.binary, args...), func(line []byte, p *proc) bool { //nolint:gosec // the binary is the caller's choice
		var entry struct{ Msg, Address, Roles string }
		if json.Unmarshal(line, &entry) != nil || entry.Msg != "listening" {
			return false
		}
		if strings.Contains(entry.Roles, "pub") {
			p.addr = entry.Address
		}
		if strings.Contains(entry.Roles, "man") {
			p.man = entry.Address
		}
		return p.addr != "" && p.man != ""
	})
	if err != nil {
		return nil, err
	}
	return p, p.ready(ctx)
}

// ready waits until the gateway says so.
func (p *proc) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := get(ctx, "http://"+p.addr+"/ready?role=pub"); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the gateway is not ready after %v", startWait)
		case <-tick.C:
		}
	}
}

// floor starts this program as the floors, in a directory of its own.
func (b *bench) floor(ctx context.Context) (*proc, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(b.dir, "floor-")
	if err != nil {
		return nil, err
	}
	return start(ctx, exec.CommandContext(ctx, self, "floor", dir), func(line []byte, p *proc) bool { //nolint:gosec // it is this program
		p.addr = strings.TrimPrefix(string(line), floorSays)
		p.man = p.addr
		return strings.HasPrefix(string(line), floorSays)
	})
}

// start runs the command until listening has taken its address from a line of stderr.
func start(ctx context.Context, cmd *exec.Cmd, listening func([]byte, *proc) bool) (*proc, error) {
	// The gateway takes every KATEWAY_* for an option of its own, and refuses those that are none.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "KATEWAY_") })
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &proc{cmd: cmd, ended: make(chan error, 1)}
	up := make(chan struct{})
	go func() {
		var last []byte
		for lines, open := bufio.NewScanner(stderr), false; lines.Scan(); {
			last = bytes.Clone(lines.Bytes())
			if !open && listening(last, p) {
				open = true
				close(up)
			}
		}
		if err := cmd.Wait(); err != nil {
			p.ended <- fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, last)
		}
		close(p.ended)
	}()
	select {
	case <-up:
		return p, nil
	case err := <-p.ended:
		return nil, errors.Join(errors.New("ended before it listened"), err)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// stop ends it at once; what it stored is not needed.
func (p *proc) stop() {
	_ = p.cmd.Process.Kill() // it may have ended by itself
	for range p.ended {      // that it was killed is no news
		continue
	}
}

// term asks it to end and answers how it did.
func (p *proc) term() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return <-p.ended
}

// cpu is what the process has used, in user space and in the kernel, by its own CPU clock: exact to the nanosecond and,
// unlike getrusage of a child, to be had while it runs.
func (p *proc) cpu() (time.Duration, error) {
	const ofProcess = 2 // CPUCLOCK_SCHED; see clock_getcpuclockid(3)
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^p.cmd.Process.Pid<<3|ofProcess), &ts); err != nil {
		return 0, fmt.Errorf("CPU clock of process %d: %w", p.cmd.Process.Pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// rss is the resident memory in bytes.
func (p *proc) rss() (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(b))
	if len(fields) < 2 {
		return 0, fmt.Errorf("statm: %q", b)
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}

// metric is the value of a gauge.
func (p *proc) metric(ctx context.Context, name string) (int64, error) {
	body, err := get(ctx, "http://"+p.man+"/metrics")
	if err != nil {
		return 0, err
	}
	for lines := bufio.NewScanner(bytes.NewReader(body)); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			f, err := strconv.ParseFloat(value, 64)
			return int64(f), err
		}
	}
	return 0, fmt.Errorf("no metric is called %s", name)
}

// get answers the body of a 200.
func get(ctx context.Context, url string) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{DisableKeepAlives: true}
	res, err := transport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != 200 {
		err = fmt.Errorf("%s: %s: %s", url, res.Status, bytes.TrimSpace(body))
	}
	return body, err
}

// heap writes a profile of what the process has in memory, where profiles are asked for, and one of its goroutines.
func (b *bench) heap(ctx context.Context, name string, p *proc) error {
	if b.profile == "" {
		return nil
	}
	for _, kind := range []string{"heap?gc=1", "goroutine"} {
		body, err := get(ctx, "http://"+p.man+"/debug/pprof/"+kind)
		if err == nil {
			err = os.WriteFile(filepath.Join(b.profile, name+"."+strings.TrimSuffix(kind, "?gc=1")+".pprof"), body, 0o600)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// profiled runs rounds that do not count, for a CPU profile of the process.
func (b *bench) profiled(ctx context.Context, s subject) error {
	if b.profile == "" {
		return nil
	}
	done := make(chan error, 1)
	go func() {
		body, err := get(ctx, fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", s.proc.man, profileSeconds))
		if err == nil {
			err = os.WriteFile(filepath.Join(b.profile, strings.ReplaceAll(s.name, " ", "-")+".pprof"), body, 0o600)
		}
		done <- err
	}()
	for {
		if _, err := s.round(); err != nil {
			return err
		}
		select {
		case err := <-done:
			return err
		default:
		}
	}
}

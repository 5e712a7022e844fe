package test

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Under systemd: the socket is handed over, readiness and the end are told, and connections that come while nobody serves
// wait for the next process instead of being refused.
func TestUnderSystemd(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	socket, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	base := "http://" + ln.Addr().String()
	ln.Close() // socket is another name for it
	name := filepath.Join(t.TempDir(), "notify")
	told, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { told.Close() })
	data := t.TempDir()
	run := func() *exec.Cmd {
		// The process id that systemd names is that of the process itself: a shell knows it before it becomes kateway.
		cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ exec "$0" serve --man 127.0.0.1:0 --data "$1" --drain-delay 0s --drain-grace 0s`, binary, data)
		cmd.Env = []string{"LISTEN_FDS=1", "LISTEN_FDNAMES=pub", "NOTIFY_SOCKET=" + name, "PATH=" + os.Getenv("PATH")}
		cmd.ExtraFiles = []*os.File{socket}
		var log bytes.Buffer
		cmd.Stderr = &log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			if t.Failed() {
				t.Log(log.String())
			}
		})
		return cmd
	}
	expect := func(state string) {
		t.Helper()
		b := make([]byte, 256)
		_ = told.SetReadDeadline(time.Now().Add(patience))
		n, err := told.Read(b)
		if err != nil || string(b[:n]) != state {
			t.Fatalf("systemd was told %q, %v; want %s", b[:n], err, state)
		}
	}
	client := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(client.CloseIdleConnections)
	publish := func() error {
		resp, err := client.Post(base+"/v1/msgs/orders/v1", "text/plain", strings.NewReader("x"))
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusCreated {
			return fmt.Errorf("publish: %s", resp.Status)
		}
		return nil
	}
	first := run()
	expect("READY=1")
	if err := publish(); err != nil {
		t.Fatal(err)
	}
	client.CloseIdleConnections()
	_ = first.Process.Signal(syscall.SIGTERM)
	expect("STOPPING=1")
	if err := first.Wait(); err != nil {
		t.Fatalf("after SIGTERM: %v", err)
	}
	waiting := make(chan error, 1)
	go func() { waiting <- publish() }()
	run()
	expect("READY=1")
	if err := <-waiting; err != nil {
		t.Errorf("while nobody served: %v", err)
	}
}

// Under systemd a swap is a reload: it is told when that begins, which process is the main one then, and that it is over; the
// watchdog is told by whoever is the main process.
func TestSwapUnderSystemd(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "notify")
	told, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { told.Close() })
	l := launchLine(t, "NOTIFY_SOCKET="+name, "WATCHDOG_USEC=400000", "--data", t.TempDir(), "--drain-grace", "0s")
	watched := 0
	// expect passes over the watchdog's.
	expect := func(begins string) string {
		t.Helper()
		b := make([]byte, 1024)
		for {
			_ = told.SetReadDeadline(time.Now().Add(patience))
			n, err := told.Read(b)
			switch {
			case err == nil && string(b[:n]) == "WATCHDOG=1":
				watched++
			case err != nil || !strings.HasPrefix(string(b[:n]), begins):
				t.Fatalf("systemd was told %q, %v; want %s", b[:n], err, begins)
			default:
				return string(b[:n])
			}
		}
	}
	watch := func() {
		t.Helper()
		b := make([]byte, 1024)
		for until := watched + 3; watched < until; watched++ {
			_ = told.SetReadDeadline(time.Now().Add(patience))
			if n, err := told.Read(b); err != nil || string(b[:n]) != "WATCHDOG=1" {
				t.Fatalf("systemd was told %q, %v; want the watchdog's", b[:n], err)
			}
		}
	}
	expect("READY=1")
	watch()
	l.swap(t)
	if s := expect("RELOADING=1\n"); !strings.Contains(s, "MONOTONIC_USEC=") {
		t.Errorf("it was told %q", s)
	}
	if s := expect("MAINPID="); s != fmt.Sprintf("MAINPID=%d\nREADY=1\nSTATUS=serving", l.pid()) {
		t.Errorf("it was told %q, and %d serves", s, l.pid())
	}
	gone(t, l.cmd.Process.Pid)
	watch() // now by the new one
	l.install(t, script(t, "exit 1"))
	l.fails(t)
	expect("RELOADING=1\n")
	if s := expect("READY=1\n"); !strings.Contains(s, "exit status 1") {
		t.Errorf("it was told %q", s)
	}
	l.signal(syscall.SIGTERM)
	expect("STOPPING=1")
}

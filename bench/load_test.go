//go:build linux

package main

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// served answers the address of a server of h.
func served(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func TestClientReadsAnswersToTheirEnd(t *testing.T) {
	addr := served(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch string(body) {
		case "length":
			_, _ = w.Write(letters(100))
		case "chunks":
			_, _ = w.Write(letters(5000))
			_ = http.NewResponseController(w).Flush()
			_, _ = w.Write(letters(300))
		case "close":
			w.Header().Set("Connection", "close")
			w.WriteHeader(503)
		}
	})
	c, err := dial(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	for _, step := range []struct {
		body string
		want head
	}{{"length", head{200, 100, false}}, {"chunks", head{200, -1, false}}, {"length", head{200, 100, false}}, {"close", head{503, 0, true}}} {
		if got, err := c.drop(post("/", []byte(step.body))); err != nil || got != step.want {
			t.Fatalf("%s: %+v %v, want %+v", step.body, got, err, step.want)
		}
	}
}

func TestStreamingTellsChunks(t *testing.T) {
	want := []int{70_000, 1, 4096}
	f := &floors{sizes: want}
	got, err := streaming(t.Context(), served(t, f.stream), "/stream", "text/plain")
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("chunks %v %v, want %v", got, err, want)
	}
}

func TestPublishingCountsAndRefuses(t *testing.T) {
	var came atomic.Int64
	addr := served(t, func(w http.ResponseWriter, r *http.Request) {
		came.Add(1)
		barePublish(w, r)
	})
	n, err := publishing(t.Context(), addr, post("/publish", letters(100)), 3, 20*time.Millisecond)
	if err != nil || n == 0 || int64(n) != came.Load() {
		t.Errorf("%d requests %v, %d came", n, err, came.Load())
	}
	bad := served(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
	if _, err := publishing(t.Context(), bad, post("/", nil), 1, time.Minute); err == nil || !strings.Contains(err.Error(), "500") {
		t.Errorf("an answer of 500 came to %v", err)
	}
}

func TestPollingReadsSoManyMessages(t *testing.T) {
	var polls int
	addr := served(t, func(w http.ResponseWriter, _ *http.Request) {
		if polls++; polls > 3 {
			w.WriteHeader(204)
			return
		}
		_, _ = w.Write(lines(1000))
	})
	if err := polling(t.Context(), addr, "/", 3000); err != nil || polls != 3 {
		t.Errorf("%d polls, %v", polls, err)
	}
	if err := polling(t.Context(), addr, "/", 1); err == nil {
		t.Error("a poll without messages is no error")
	}
}

// The CPU and the memory are those of the other process, not ours.
func TestProcessIsMeasured(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Skip("no cat: ", err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	other, self := &proc{cmd: cmd}, &proc{cmd: &exec.Cmd{Process: &os.Process{Pid: os.Getpid()}}}
	spin, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	for spin.Err() == nil {
		continue
	}
	idle, err1 := other.cpu()
	busy, err2 := self.cpu()
	if err1 != nil || err2 != nil || idle <= 0 || busy <= idle {
		t.Errorf("CPU of cat %v %v, of this process %v %v", idle, err1, busy, err2)
	}
	small, err1 := other.rss()
	big, err2 := self.rss()
	if err1 != nil || err2 != nil || small <= 0 || big <= small {
		t.Errorf("memory of cat %d %v, of this process %d %v", small, err1, big, err2)
	}
}

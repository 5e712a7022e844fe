package cli

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// asCommand makes this test binary the command itself: signals and exit codes need a process of their own.
const asCommand = "RUN_AS_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		Main(nil)
		return
	}
	os.Exit(m.Run())
}

// process is a running kateway.
type process struct {
	*exec.Cmd
	lines chan map[string]any // of its log; closed at its end
}

func launch(t *testing.T, args ...string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{Cmd: exec.CommandContext(t.Context(), self, args...), lines: make(chan map[string]any, 1000)}
	// The environment of the tests themselves has names that are no options.
	ours := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "KATEWAY_") })
	p.Env = append(ours, asCommand+"=1")
	stderr, err := p.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.lines)
		for s := bufio.NewScanner(stderr); s.Scan(); {
			var m map[string]any
			if json.Unmarshal(s.Bytes(), &m) != nil {
				m = map[string]any{"msg": s.Text()}
			}
			p.lines <- m
		}
	}()
	return p
}

// until reads the log up to a line that begins so.
func (p *process) until(t *testing.T, msg string) map[string]any {
	t.Helper()
	for m := range p.lines {
		if s, _ := m["msg"].(string); strings.HasPrefix(s, msg) {
			return m
		}
	}
	t.Fatalf("it ended without saying %q", msg)
	return nil
}

// end waits for the process and answers its exit code.
func (p *process) end(t *testing.T) int {
	t.Helper()
	for range p.lines { // Wait closes the pipe
	}
	err := p.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return p.ProcessState.ExitCode()
}

func (p *process) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := p.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

func local(t *testing.T, more ...string) []string {
	t.Helper()
	return append([]string{"--pub", "127.0.0.1:0", "--man", "off", "--data", filepath.Join(t.TempDir(), "data"), "--drain-delay", "0s", "--drain-grace", "0s"}, more...)
}

func TestServeUntilASignal(t *testing.T) {
	for _, s := range []os.Signal{syscall.SIGTERM, syscall.SIGINT} {
		p := launch(t, local(t)...)
		addr, _ := p.until(t, "listening")["address"].(string)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+addr+"/v1/msgs/orders/v1", strings.NewReader("hello"))
		if err != nil {
			t.Fatal(err)
		}
		tr := &http.Transport{}
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		tr.CloseIdleConnections()
		if resp.StatusCode != http.StatusCreated {
			t.Errorf("%s %s", resp.Status, b)
		}
		p.signal(t, s)
		p.until(t, "stopped")
		if code := p.end(t); code != exitOK {
			t.Errorf("%v: code %d", s, code)
		}
	}
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	p := launch(t, local(t, "--drain-delay", "25s")...)
	p.until(t, "listening")
	p.signal(t, syscall.SIGTERM)
	p.until(t, "stopping")
	began := time.Now()
	p.signal(t, syscall.SIGTERM)
	if code := p.end(t); code != exitFailed {
		t.Errorf("code %d", code)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("took %v", took)
	}
}

func TestReloadBySignal(t *testing.T) {
	name := file(t, "log-level: info\n")
	p := launch(t, local(t, "--config", name)...)
	p.until(t, "listening")
	if err := os.WriteFile(name, []byte("log-level: debug\nmax-key: 7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.signal(t, syscall.SIGHUP)
	if m := p.until(t, "log level set"); m["to"] != "debug" {
		t.Errorf("%v", m)
	}
	if m := p.until(t, "these options have changed"); m["options"] != "--max-key" {
		t.Errorf("%v", m)
	}
	if err := os.WriteFile(name, []byte("log-level: debug\nnonsense: 7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.signal(t, syscall.SIGHUP)
	if m := p.until(t, "reload: all stays"); !strings.Contains(m["error"].(string), "nonsense") {
		t.Errorf("%v", m)
	}
	p.signal(t, syscall.SIGTERM)
	if code := p.end(t); code != exitOK {
		t.Errorf("code %d", code)
	}
}

func TestStartThatFails(t *testing.T) {
	p := launch(t, local(t, "--tls-cert", "/nonexistent", "--tls-key", "/nonexistent")...)
	if m := p.until(t, "can't start"); !strings.Contains(m["error"].(string), "/nonexistent") {
		t.Errorf("%v", m)
	}
	if code := p.end(t); code != exitFailed {
		t.Errorf("code %d", code)
	}
	p = launch(t, "--nonsense")
	p.until(t, "kateway: unknown flag --nonsense")
	if code := p.end(t); code != exitUsage {
		t.Errorf("code %d", code)
	}
}

package main

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/kateway/kateway/plugins/pluginstest"
	"github.com/kateway/kateway/store"
)

// beMain has this binary be the command itself, as somebody's own main would be.
const beMain = "KATEWAY_EXAMPLE_IS_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(beMain) != "" {
		os.Unsetenv(beMain)
		main()
	}
	os.Exit(m.Run())
}

func TestIsAPlugin(t *testing.T) {
	pluginstest.Run(t, pluginstest.Config{
		Kind: kind(), Options: "header: mark\nevery: 1h", Message: store.Message{Value: []byte("v"), Headers: []store.Header{{Key: "a", Value: []byte("b")}}},
	})
}

// TestRuns starts the command with the plugin in its chain, and sees it at work.
func TestRuns(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "kateway.yaml")
	text := "pub: 127.0.0.1:0\nman: \"off\"\nid: gw7\nlog-format: json\ndata: " + filepath.Join(dir, "data") + "\nplugins:\n  - stamp:\n      header: mark\n      most: 2\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "serve", "--config", config)
	// The environment of the tests themselves has names that are no options.
	ours := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "KATEWAY_") })
	cmd.Env = append(ours, beMain+"=1")
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}()
	url := address(t, log)
	client := &http.Client{Transport: new(http.Transport)}
	defer client.CloseIdleConnections()
	post := func(want int, path, body string, header ...string) {
		t.Helper()
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, url+path, strings.NewReader(body))
		for i := 0; i+1 < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if res.StatusCode != want {
			b, _ := io.ReadAll(res.Body)
			t.Errorf("%s: %d %s", path, res.StatusCode, b)
		}
	}
	post(403, "/v1/msgs/orders/v1", "v", "X-Stamp", "never")
	post(413, "/v1/msgs/orders/v1?batch=lines", "1\n2\n3\n")
	post(201, "/v1/msgs/orders/v1", "v")
	res, err := client.Get(url + "/v1/msgs/default/orders/v1?group=g&wait=20s")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if b, _ := io.ReadAll(res.Body); string(b) != "v" || !slices.Equal(res.Header["X-Msg-Mark"], []string{"gw7"}) {
		t.Errorf("%q, %v", b, res.Header)
	}
}

// address is where the log says that pub listens. The rest of the log is read and thrown away.
func address(t *testing.T, log io.Reader) string {
	t.Helper()
	lines := bufio.NewScanner(log)
	var all []string
	for lines.Scan() {
		all = append(all, lines.Text())
		var line struct{ Msg, Roles, Address string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "listening" && strings.Contains(line.Roles, "pub") {
			go func() { _, _ = io.Copy(io.Discard, log) }()
			return "http://" + line.Address
		}
	}
	t.Fatalf("it does not listen:\n%s", strings.Join(all, "\n"))
	return ""
}

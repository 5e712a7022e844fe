package test

import (
	"context"
	"encoding/xml"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/kateway/kateway/internal/testkit"
)

// h2specVersion is what is installed where h2spec is not there.
const h2specVersion = "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible"

// P1. What the gateway does with HTTP/2 is no worse than what Go's own server does: h2spec fails in no case in which it does not
// fail there.
func TestHTTP2AsGood(t *testing.T) {
	t.Parallel()
	tool := h2spec(t)
	g := launch(t, "--data", t.TempDir(), "--log-level", "info")
	const path = "/openapi.json" // longer than a window, so that streams are still open when the tool goes on
	body := g.client("").want(http.StatusOK, "GET", path, nil).body
	bare := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) }))
	bare.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	bare.Config.Protocols = new(http.Protocols)
	bare.Config.Protocols.SetHTTP1(true)
	bare.Config.Protocols.SetUnencryptedHTTP2(true)
	bare.Start()
	defer bare.Close()
	theirs := tool.failures(t, bare.Listener.Addr().String(), path)
	ours := tool.failures(t, hostOf(t, g.pub), path)
	for range 2 { // some cases are a race between the tool and the server: what is worse is so each time
		for c, why := range ours {
			if _, there := theirs[c]; !there {
				t.Logf("looking again: %s: %s", c, why)
				again := tool.failures(t, hostOf(t, g.pub), path)
				maps.DeleteFunc(ours, func(c, _ string) bool { _, still := again[c]; return !still })
				break
			}
		}
	}
	for c, why := range ours {
		if _, there := theirs[c]; !there {
			t.Errorf("%s: %s", c, why)
		}
	}
	t.Logf("h2spec fails in %d cases; with Go's own server in %d", len(ours), len(theirs))
}

// h2specTool is the path of the program.
type h2specTool string

func h2spec(t *testing.T) h2specTool {
	t.Helper()
	if path, err := exec.LookPath("h2spec"); err == nil {
		return h2specTool(path)
	}
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	install := exec.CommandContext(ctx, "go", "install", h2specVersion)
	install.Env = append(os.Environ(), "GOBIN="+dir)
	install.Dir = dir // outside of a module
	if out, err := install.CombinedOutput(); err != nil {
		testkit.Missing(t, "h2spec", fmt.Errorf("%w: %s", err, out))
	}
	return h2specTool(filepath.Join(dir, "h2spec"))
}

// failures runs all cases against the server and answers those that fail.
func (tool h2specTool) failures(t *testing.T, addr, path string) map[string]string {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	report := filepath.Join(t.TempDir(), "report.xml")
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, string(tool), "--host", host, "--port", port, "--path", path, "--timeout", "2", "--junit-report", report).CombinedOutput()
	b, readErr := os.ReadFile(report)
	if readErr != nil {
		t.Fatalf("h2spec: %v, %v\n%s", err, readErr, out)
	}
	var suites struct {
		Suites []struct {
			Name  string `xml:"name,attr"`
			Cases []struct {
				Package string  `xml:"package,attr"`
				Name    string  `xml:"classname,attr"`
				Failure *string `xml:"failure"`
				Error   *string `xml:"error"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(b, &suites); err != nil {
		t.Fatal(err)
	}
	failed, cases := map[string]string{}, 0
	for _, s := range suites.Suites {
		for _, c := range s.Cases {
			cases++
			for _, why := range []*string{c.Failure, c.Error} {
				if why != nil {
					failed[c.Package+" "+c.Name] = *why
				}
			}
		}
	}
	if cases < 100 {
		t.Fatalf("h2spec ran %d cases only:\n%s", cases, out)
	}
	return failed
}

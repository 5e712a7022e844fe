package gateway

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A line per request, one line each whatever the client says, without its secrets.
func TestAccessLog(t *testing.T) {
	for _, format := range []string{"json", "combined"} {
		file := filepath.Join(t.TempDir(), "access.log")
		g := start(t, func(c *Config) { c.AccessLog, c.AccessLogFormat = file, format })
		nasty := "a\"b\\c\x1b[31m\u2028\xff" + strings.Repeat("x", 2000)
		for _, path := range []string{"/v1/msgs/t/v1?key=canary-key", "/v1/msgs/%22%0a%1b/v1?access_token=canary-token"} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+g.Addr(Pub)+path, strings.NewReader("canary-body"))
			if err != nil {
				t.Fatal(err)
			}
			req.Header["User-Agent"] = []string{strings.ReplaceAll(nasty, "\x1b", "")}
			req.Header.Set("Appid", "shop")
			resp, err := g.client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
		}
		if err := g.stop(); err != nil {
			t.Error(err)
		}
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte("canary")) {
			t.Errorf("%s: a secret or a payload is in the log", format)
		}
		lines := strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
		if len(lines) != 2 {
			t.Fatalf("%s: %d lines:\n%s", format, len(lines), b)
		}
		if i := strings.IndexFunc(strings.Join(lines, ""), func(r rune) bool { return r < ' ' || r == 0x7f }); i >= 0 {
			t.Errorf("%s: a control character", format)
		}
		if format == "combined" {
			if !regexp.MustCompile(`^127\.0\.0\.1 - shop \[[^]]+\] "POST /v1/msgs/t/v1 HTTP/1\.1" 201 \d+ "-" "a\\"b\\\\c`).MatchString(lines[0]) {
				t.Error(lines[0])
			}
			continue
		}
		var line struct {
			Path, Remote, UserAgent string
			Status                  int
		}
		if err := json.Unmarshal([]byte(lines[0]), &line); err != nil || line.Status != 201 || line.Path != "/v1/msgs/t/v1" || line.Remote == "" {
			t.Errorf("%s: %v", lines[0], err)
		}
	}
}

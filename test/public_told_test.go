package test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What was done and what was refused stands in the audit log: who, what, from where, with what result; and the log is sound.
func audited(t *testing.T, p *public) {
	file := filepath.Join(p.dir, "data", "plugins", "audit", "audit.log")
	want := []string{"publish ok tenant1", "publish unauthenticated ", "subscribe unauthenticated ", "subscribe denied tenant", "settle denied tenant", "admin ok ", "admin unauthenticated ", "subscribe throttled few", "publish throttled slow"}
	var text []byte
	var told strings.Builder
	waitFor(t, "the audit log to have it all", func() bool {
		text, _ = os.ReadFile(file)
		told.Reset()
		for line := range bytes.Lines(text) {
			var r struct{ Event, Result, App, Remote, Time string }
			if json.Unmarshal(line, &r) == nil {
				told.WriteString(r.Event + " " + r.Result + " " + r.App + "\n")
				if r.Event != "" && (!strings.HasPrefix(r.Remote, p.subnet) || r.Time == "") {
					t.Errorf("from where, when: %s", line)
				}
			}
		}
		for _, w := range want {
			if !strings.Contains(told.String(), w) {
				return false
			}
		}
		return true
	})
	if out, err := exec.Command(binary, "gk", "audit", "verify", "--key", filepath.Join(filepath.Dir(file), "key"), file).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// hostile are values that would forge a line of a log, or do something to a terminal that shows it.
func hostile(t *testing.T, p *public) {
	r := p.tenants[2]
	c := p.caller(r)
	nasty := "\x1b[31m%s%n\u2028\u0085\xff\xfe\"}\t{\"level\":\"ERROR\"" + strings.Repeat("x", 4000)
	for _, text := range []string{
		"GET /v1/msgs/" + r.app + "/%1b%5b31m%0d%0a%e2%80%a8/v1?group=g HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /v1/msgs/" + r.app + "/orders/v1?group=g&wait=0s HTTP/1.1\r\nHost: x\r\nUser-Agent: " + nasty + "\r\nAppid: " + nasty + "\r\nReferer: " + nasty + "\r\n\r\n",
		"POST /v1/msgs/orders/v1?key=%1b%0d%0a%ff&" + strings.Repeat("%0a", 500) + "=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + r.key + "\r\nX-Tag: " + nasty + "\r\nContent-Length: 1\r\n\r\nx",
		"GET /" + nasty + " HTTP/1.1\r\nHost: " + nasty + "\r\n\r\n",
		nasty + "\r\n\r\n",
	} {
		conn := c.raw(t)
		_, _ = conn.Write([]byte(text)) // it may be answered, and hung up on, before it has ended
		_ = conn.CloseWrite()
		b, _ := io.ReadAll(conn)
		if _, body, ok := strings.Cut(string(b), "\r\n\r\n"); !ok || !strings.HasPrefix(string(b), "HTTP/1.1 ") {
			t.Errorf("%.60q is answered %q", text, b)
		} else {
			p.told = append(p.told, body)
		}
	}
}

// canaries are sent by every way that there is for a secret or a payload.
func canaries(t *testing.T, p *public) {
	r := p.tenants[3]
	c := p.caller(r)
	publish := "/v1/msgs/orders/v1?key=canary-key"
	c.ask(t, in, "POST", publish, "canary-body", "X-Msg-Note: canary-header", "X-Tag: canary-tag", "Content-Type: text/canary-type", "User-Agent: me", "Cookie: a=canary-cookie")
	c.ask(t, "400 invalid_param", "POST", publish+"&note=canary-value", "canary-body")
	c.ask(t, "400 invalid_body", "POST", publish+"&batch=objects", `{"value":"canary-body`)
	c.ask(t, in, "GET", "/v1/msgs/"+r.app+"/orders/v1?group=canaries&wait=0s&filter="+`key=="canary-filter"`, "")
	nobody := p.caller(nil)
	basic := base64.StdEncoding.EncodeToString([]byte(r.app + ":canary-basic"))
	p.secrets = append(p.secrets, basic)
	for _, head := range []string{"Authorization: Bearer canary-bearer", "Authorization: Basic " + basic, "Subkey: canary-subkey", "Pubkey: canary-pubkey", "Authorization: canary-scheme canary", "Proxy-Authorization: Bearer canary"} {
		nobody.ask(t, "401 unauthenticated", "POST", publish, "canary-body", "Appid: "+r.app, head)
		resp, body, err := nobody.try(nobody.h2, "POST", p.man+"/v1/apps", `{"app":"canary"}`, head)
		if err != nil || p.verdict(resp, body) != "401 unauthenticated" {
			t.Error(resp, body, err)
		}
	}
	good := p.forge.make(r.app, shape{})
	bad := p.forge.make(r.app, shape{key: p.forge.own})
	browser := decode[struct{ Token string }](t, []byte(func() string {
		_, got := c.ask(t, in, "POST", "/v1/tokens", fmt.Sprintf(`{"op":"sub","app":%q,"topic":"orders","ver":"v1","group":"g"}`, r.app))
		return got
	}())).Token
	for _, token := range []string{good, bad, browser} {
		p.secrets = append(p.secrets, token[strings.LastIndexByte(token, '.')+1:], token[strings.IndexByte(token, '.')+1:strings.LastIndexByte(token, '.')])
		for _, w := range ways() {
			_, _ = w.ask(p.caller(r), &attempt{more: "access_token=" + token})
			_, _ = w.ask(p.caller(r), &attempt{head: []string{"Authorization: Bearer " + token}})
		}
		conn, _, err := nobody.socket("/v1/ws/msgs/"+r.app+"/orders/v1?group=g", []string{"Sec-WebSocket-Protocol: bearer." + token})
		if (err == nil) != (token != bad) {
			t.Errorf("as subprotocol: %v", err)
		}
		if conn != nil {
			conn.Close()
		}
	}
	for _, body := range []string{`{"app":"a","secret":"canary-secret"}`, `{"app":"canary`} {
		resp, got, err := c.try(c.h2, "POST", p.man+"/v1/apps", body, "Authorization: Bearer "+p.admin, "Content-Type: application/json")
		if err != nil || resp.StatusCode != http.StatusBadRequest {
			t.Error(resp, got, err)
		}
	}
}

// nothingTold looks at everything that the gateway has said and written: there is no secret, no payload, nothing of how it is
// made, and every line of a log is one JSON object.
func (p *public) nothingTold(t *testing.T) {
	for _, text := range p.told {
		if m := regexp.MustCompile(`goroutine |\.go:\d|/work/|/root/|/tmp/|/home/|runtime error|panic|\bpebble\b|\bkgo\b|golang|go1\.\d`).FindString(text); m != "" {
			t.Errorf("an answer tells %q: %s", m, text)
		}
		if bytes.ContainsFunc([]byte(text), func(r rune) bool { return r < ' ' && r != '\n' }) {
			t.Errorf("an answer has control characters: %q", text)
		}
	}
	if len(p.told) < 1000 {
		t.Errorf("only %d were refused", len(p.told))
	}
	outputs := p.outputs(t)
	secrets := append([]string{"canary"}, p.secrets...)
	for name, text := range outputs {
		for _, s := range secrets {
			if name == "store" && s == "canary" {
				continue // messages are kept as they came
			}
			if i := strings.Index(text, s); i >= 0 {
				t.Errorf("%s has %.12s...: %q", name, s, text[max(0, i-150):min(len(text), i+30)])
			}
		}
	}
	for _, name := range []string{"log", "access.log", "audit.log"} {
		if len(outputs[name]) == 0 {
			t.Errorf("there is no %s", name)
		}
		for line := range strings.Lines(outputs[name]) {
			if !json.Valid([]byte(line)) || bytes.ContainsFunc([]byte(strings.TrimSuffix(line, "\n")), func(r rune) bool { return r < ' ' || r == 0x7f || r == 0x2028 || r == '\ufffd' }) {
				t.Errorf("%s: no line of JSON: %q", name, line)
			}
		}
	}
}

// outputs are what the gateway has written and what an operator can see of it.
func (p *public) outputs(t *testing.T) map[string]string {
	t.Helper()
	list := map[string]string{"log": p.log.last(math.MaxInt32) + "\n"}
	for _, path := range []string{"/metrics", "/v1/status", "/v1/options", "/v1/clients?limit=1000", "/v1/apps", "/v1/apps/tenant1/keys", "/v1/adminkeys", "/v1/gateways", "/debug/pprof/goroutine?debug=2", "/debug/pprof/cmdline", "/openapi.json"} {
		list[path] = p.manage(http.StatusOK, "GET", path, nil)
	}
	for _, args := range []string{"status", "apps ls", "keys ls tenant1"} {
		cmd := exec.Command(binary, append([]string{"gk"}, strings.Fields(args)...)...)
		cmd.Env = append(os.Environ(), "KATEWAY_MAN="+p.man, "KATEWAY_ADMIN_KEY="+p.admin, "SSL_CERT_FILE="+p.ca)
		out, _ := cmd.CombinedOutput() // of what it says when it does not work as well
		list["gk "+args] = string(out)
	}
	out, _ := exec.Command(binary, "config", "check", p.file("kateway.yaml")).CombinedOutput()
	list["config check"] = string(out)
	if info, err := os.Stat(p.file("data")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("others may look into the directory of the gateway: %v, %v", info, err)
	}
	argv, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.cmd.Process.Pid))
	if err != nil {
		t.Error(err)
	}
	list["argv"] = string(argv)
	err = filepath.WalkDir(p.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || path == p.file("three.secret") {
			return err
		}
		b, err := os.ReadFile(path)
		name := filepath.Base(path)
		if strings.Contains(path, "/data/store/") {
			name = "store"
		}
		list[name] += string(b)
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return list
}

package gk

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// healthy is a deployment of two gateways in which nothing is wrong. Both are the one fake.
func healthy(t *testing.T) (*fake, net.Listener) {
	t.Helper()
	f := newFake(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	f.answer("GET /ready", 200, `{"status":"ok","parts":{"store":"ok"}}`)
	f.answer("GET /v1/status", 200, `{"id":"gw1","version":"v1","warnings":[]}`)
	f.answer("GET /v1/gateways", 200, items(f.listed("gw1", "v1", ln.Addr().String()), f.listed("gw2", "v1", ln.Addr().String())))
	f.answer("GET /v1/clients", 200, `{"items":[]}`)
	f.answer("GET /v1/clusters", 200, items(`{"cluster":"default","live":{"brokers":[{"id":1},{"id":2},{"id":3}]}}`))
	return f, ln
}

func (f *fake) listed(id, version, peer string) string {
	return fmt.Sprintf(`{"id":%q,"pub":%q,"sub":%q,"man":%q,"peer":%q,"version":%q,"host":"one"}`, id, f.host(), f.host(), f.host(), peer, version)
}

// override answers before the fake does.
func (f *fake) override(path string, h http.HandlerFunc) {
	before := f.mux
	f.mux = http.NewServeMux()
	f.mux.Handle("/", before)
	f.mux.HandleFunc(path, h)
}

func (f *fake) replace(path string, status int, body string) {
	f.override(path, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	})
}

func TestDoctorFindsNothing(t *testing.T) {
	f, _ := healthy(t)
	o := f.invoke(t, "doctor")
	o.contains(t, 0, "is ready", "2 listed, gw1 among them", "gw1: 3 addresses answer", "agree to about a second", "3 brokers", "all gateways answer")
	if strings.Contains(o.out, "warn") || strings.Contains(o.out, "fail") {
		t.Error(o.out)
	}
	o = f.invoke(t, "doctor", "-o", "json")
	var list []finding
	if err := json.Unmarshal([]byte(o.out), &list); err != nil || len(list) < 6 {
		t.Errorf("%v, %s", err, o.out)
	}
}

// Each thing that can be wrong is found, and something is said of what to do.
func TestDoctorFinds(t *testing.T) {
	for name, c := range map[string]struct {
		breaks func(t *testing.T, f *fake, peer string)
		want   finding // Text and Advice are parts
	}{
		"part degraded": {func(_ *testing.T, f *fake, _ string) {
			f.replace("GET /ready", 200, `{"status":"degraded","parts":{"store":"ok","zookeeper":"degraded"}}`)
		}, finding{levelWarn, "gateway", "zookeeper is degraded", "ZooKeeper's servers"}},
		"part down": {func(_ *testing.T, f *fake, _ string) {
			f.replace("GET /ready", 503, `{"status":"down","parts":{"store":"down"},"detail":{"store":"no broker"}}`)
		}, finding{levelFail, "gateway", "store is down: no broker", "gk brokers"}},
		"unknown part": {func(_ *testing.T, f *fake, _ string) {
			f.replace("GET /ready", 503, `{"status":"down","parts":{"flux":"down"}}`)
		}, finding{levelFail, "gateway", "flux is down", "log"}},
		"draining": {func(_ *testing.T, f *fake, _ string) {
			f.replace("GET /ready", 503, `{"status":"draining"}`)
		}, finding{levelWarn, "gateway", "is stopping", "wait"}},
		"weak settings": {func(_ *testing.T, f *fake, _ string) {
			f.replace("GET /v1/status", 200, `{"id":"gw1","warnings":["topic \"a: b\" has one replica: give it three"]}`)
		}, finding{levelWarn, "settings", `topic "a: b" has one replica`, "give it three"}},
		"no status": {func(_ *testing.T, f *fake, _ string) {
			f.replace("GET /v1/status", 401, `{"code":"unauthenticated"}`)
		}, finding{levelFail, "status", "401", "log"}},
		"not listed": {func(_ *testing.T, f *fake, _ string) {
			f.replace("GET /v1/gateways", 200, items())
		}, finding{levelFail, "gateways", "gw1 is not on the list", "ZooKeeper"}},
		"no list": {func(_ *testing.T, f *fake, _ string) {
			f.replace("GET /v1/gateways", 503, `{"code":"unavailable"}`)
		}, finding{levelFail, "gateways", "503", "log"}},
		"versions": {func(_ *testing.T, f *fake, peer string) {
			f.replace("GET /v1/gateways", 200, items(f.listed("gw1", "v1", peer), f.listed("gw2", "v2", peer)))
		}, finding{levelWarn, "versions", "v1 (gw1) and v2 (gw2)", "finish the upgrade"}},
		"no peer address": {func(_ *testing.T, f *fake, peer string) {
			f.replace("GET /v1/gateways", 200, items(f.listed("gw1", "v1", peer), f.listed("gw2", "v1", "")))
		}, finding{levelWarn, "peers", "gw2 has no peer address", "--peer"}},
		"loopback": {func(_ *testing.T, f *fake, peer string) {
			f.replace("GET /v1/gateways", 200, items(f.listed("gw1", "v1", peer), strings.Replace(f.listed("gw2", "v1", peer), `"one"`, `"other"`, 1)))
		}, finding{levelWarn, "addresses", "gw1 tells other machines to find its pub at 127.0.0.1", "--pub"}},
		"gateway gone": {func(t *testing.T, f *fake, peer string) {
			f.replace("GET /v1/gateways", 200, items(f.listed("gw1", "v1", peer), fmt.Sprintf(`{"id":"gw2","man":%q,"peer":%q,"version":"v1","host":"one"}`, deadAddress(t), peer)))
		}, finding{levelFail, "reach", "gw2: its man address", "firewall"}},
		"peer port closed": {func(t *testing.T, f *fake, peer string) {
			f.replace("GET /v1/gateways", 200, items(f.listed("gw1", "v1", peer), f.listed("gw2", "v1", deadAddress(t))))
		}, finding{levelWarn, "reach", "gw2: its peer address", "need not be reached"}},
		"peer silent": {func(_ *testing.T, f *fake, _ string) {
			f.replace("GET /v1/clients", 200, `{"items":[],"unreachable":["gw2"]}`)
		}, finding{levelFail, "peers", "gw2 did not answer", "secret"}},
		"our clock": {func(_ *testing.T, f *fake, _ string) {
			f.override("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Date", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat))
				_, _ = w.Write([]byte(`{"status":"ok"}`))
			})
		}, finding{levelWarn, "clocks", "this machine's clock", "NTP"}},
		"cluster away": {func(_ *testing.T, f *fake, _ string) {
			f.replace("GET /v1/clusters", 200, items(`{"cluster":"east","fault":"no broker answers"}`))
		}, finding{levelFail, "clusters", "cluster east: no broker answers", "gk clusters set"}},
		"no leader": {func(_ *testing.T, f *fake, _ string) {
			f.replace("GET /v1/clusters", 200, items(`{"cluster":"east","live":{"brokers":[],"leaderless":2,"under_replicated":2}}`))
		}, finding{levelFail, "clusters", "2 partitions have no leader", "start the brokers"}},
	} {
		t.Run(name, func(t *testing.T) {
			f, ln := healthy(t)
			c.breaks(t, f, ln.Addr().String())
			o := f.invoke(t, "doctor", "-o", "json")
			var list []finding
			if err := json.Unmarshal([]byte(o.out), &list); err != nil || o.code != exitFailed || o.err != "" {
				t.Fatalf("%v, %+v", err, o)
			}
			if !slices.ContainsFunc(list, func(got finding) bool {
				return got.Level == c.want.Level && got.Check == c.want.Check && strings.Contains(got.Text, c.want.Text) && strings.Contains(got.Advice, c.want.Advice)
			}) {
				t.Errorf("%+v", list)
			}
			for _, got := range list {
				if got.Level != levelOK && got.Advice == "" {
					t.Errorf("no advice: %+v", got)
				}
			}
		})
	}
}

// deadAddress is one where nobody listens.
func deadAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func TestDoctorOfNobody(t *testing.T) {
	f := newFake(t)
	f.Close()
	o := f.invoke(t, "doctor")
	o.contains(t, exitUnreachable, "fail", "KATEWAY_MAN", "no answer")
	other := newFake(t)
	other.answer("GET /ready", 200, "<html>")
	other.invoke(t, "doctor").contains(t, exitFailed, "is this a gateway?")
}

func TestDoctorLooksAtFiles(t *testing.T) {
	f, _ := healthy(t)
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"admin-key": 0o600, "secret": 0o640} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("key"), mode); err != nil {
			t.Fatal(err)
		}
	}
	f.invoke(t, "doctor", "--data", dir).contains(t, exitFailed, "secret can be read by others: mode 0640", "chmod 600", "admin-key can be read by its owner only")
	if err := os.Chmod(filepath.Join(dir, "secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.invoke(t, "doctor", "--data", dir).contains(t, exitOK)
	f.invoke(t, "doctor", "--data", filepath.Join(dir, "none")).contains(t, exitOK)
	f.invoke(t, "doctor", "--admin-key-file", filepath.Join(dir, "admin-key")).contains(t, exitOK, "admin-key can be read by its owner only")
}

func TestKeyInClearText(t *testing.T) {
	for address, warned := range map[string]bool{
		"http://127.0.0.1:1": false, "http://[::1]:1": false, "http://localhost:1": false, "https://gw.example:1": false,
		"http://gw.example:1": true, "http://10.0.0.1:1": true,
	} {
		for _, key := range []string{"", "k"} {
			tl, err := newTool(&global{Man: address, Timeout: 1e9}, []string{"KATEWAY_ADMIN_KEY=" + key}, streams{}, "v1")
			if err != nil {
				t.Fatal(err)
			}
			d := &diagnosis{doctor: &doctor{}, tool: tl}
			d.address()
			if (len(d.findings) > 0) != (warned && key != "") {
				t.Errorf("%s with key %q: %v", address, key, d.findings)
			}
			tl.close()
		}
	}
}

func TestSkew(t *testing.T) {
	const s = time.Second
	for want, clocks := range map[string]map[string]time.Duration{
		"":                                   nil,
		"2 gateway(s) agree":                 {"a": s / 2, "b": -s / 2},
		"the clocks of b and a are 5s apart": {"a": 4 * s, "b": -s},
		"clock and that of a are 1m0s apart": {"a": -60 * s, "b": -60 * s},
		"clock and that of only are 1h0m0s apart": {"only": time.Hour},
	} {
		d := &diagnosis{}
		d.skew(clocks)
		if want == "" && len(d.findings) == 0 {
			continue
		}
		if len(d.findings) != 1 || !strings.Contains(d.findings[0].Text, want) {
			t.Errorf("%v: %v", clocks, d.findings)
		}
	}
}

func TestStatus(t *testing.T) {
	f, _ := healthy(t)
	f.replace("GET /ready", 503, `{"status":"down","parts":{"store":"down","disk":"ok"},"detail":{"store":"no broker"}}`)
	f.invoke(t, "status").want(t, 0, "id           gw1\nversion      v1\nwarnings     -\nready        down\nready.disk   ok\nready.store  down: no broker\n", "")
	f.invoke(t, "status", "-o", "json").contains(t, 0, `"id": "gw1"`)
}

package test

import (
	"encoding/json"
	"encoding/xml"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/kateway/kateway/internal/testkit"
)

// forwardSecret are ciphers that are authenticated and leave nothing to who gets the key of the certificate later.
var forwardSecret = regexp.MustCompile(`^(TLS_(AES|CHACHA20)_|ECDHE-(ECDSA|RSA)-(AES(128|256)-GCM|CHACHA20)-)`)

// What two scanners that others wrote find in our TLS, with each kind of key. sslscan takes a second. testssl.sh, which looks
// for each fault of TLS that has got a name, takes a minute for each and needs KATEWAY_TEST_TESTSSL=1.
func TestScannersFindNothingInTLS(t *testing.T) {
	t.Parallel()
	for name, rsa := range map[string]bool{"ecdsa": false, "rsa": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := testkit.NewAuthority(t)
			a.RSA = rsa
			cert, key := a.For("127.0.0.1", time.Time{})
			g := launchUnready(t, "--data", t.TempDir(), "--tls-cert", cert, "--tls-key", key)
			addr := hostOf(t, g.pub)
			t.Run("sslscan", func(t *testing.T) { sslscan(t, addr) })
			t.Run("testssl", func(t *testing.T) { testssl(t, addr, a.File) })
		})
	}
}

// tool is the program's output in a file of its own, by a flag that names the file.
func tool(t *testing.T, flag string, args ...string) []byte {
	t.Helper()
	if _, err := exec.LookPath(args[0]); err != nil {
		testkit.Missing(t, args[0], err)
	}
	file := filepath.Join(t.TempDir(), "found")
	said, _ := exec.CommandContext(t.Context(), args[0], slices.Insert(args[1:], 0, flag+file)...).CombinedOutput() // how it ends says how much it found
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	return b
}

func sslscan(t *testing.T, addr string) {
	var scan struct {
		Protocols []struct {
			Type    string `xml:"type,attr"`
			Version string `xml:"version,attr"`
			Enabled bool   `xml:"enabled,attr"`
		} `xml:"ssltest>protocol"`
		Ciphers []struct {
			Version string `xml:"sslversion,attr"`
			Name    string `xml:"cipher,attr"`
		} `xml:"ssltest>cipher"`
		Renegotiation struct {
			Supported bool `xml:"supported,attr"`
		} `xml:"ssltest>renegotiation"`
		Heartbleed []struct {
			Vulnerable bool `xml:"vulnerable,attr"`
		} `xml:"ssltest>heartbleed"`
	}
	if err := xml.Unmarshal(tool(t, "--xml=", "sslscan", addr), &scan); err != nil {
		t.Fatal(err)
	}
	for _, p := range scan.Protocols {
		if want := p.Type == "tls" && p.Version >= "1.2"; p.Enabled != want {
			t.Errorf("%s %s: %t", p.Type, p.Version, p.Enabled)
		}
	}
	versions := map[string]int{}
	for _, c := range scan.Ciphers {
		versions[c.Version]++
		if !forwardSecret.MatchString(c.Name) {
			t.Errorf("%s with %s", c.Version, c.Name)
		}
	}
	if len(scan.Protocols) < 6 || versions["TLSv1.2"] == 0 || versions["TLSv1.3"] == 0 || len(scan.Heartbleed) == 0 {
		t.Errorf("the scan has shown nothing: %+v", scan)
	}
	if scan.Renegotiation.Supported {
		t.Error("renegotiation is supported")
	}
	for _, h := range scan.Heartbleed {
		if h.Vulnerable {
			t.Error("heartbleed")
		}
	}
}

// accepted is what testssl.sh has to say that is no fault of ours.
var accepted = map[string]string{
	"engine_problem":        "of the scanner's openssl: no GOST",
	"cert_expirationStatus": "the test's certificate is good for an hour",
	"cert_notAfter":         "the same",
	"cert_revocation":       "the same: the test's authority has no lists",
	"TLS_session_ticket":    "a hint of a week; the keys of tickets are new every day",
	"HSTS":                  "of role man, which browsers speak to; see TestStrictTransportSecurity",
}

func testssl(t *testing.T, addr, ca string) {
	if os.Getenv("KATEWAY_TEST_TESTSSL") == "" {
		t.Skip("KATEWAY_TEST_TESTSSL=1 runs it; it takes a minute")
	}
	name := "testssl" // as Debian has it
	if _, err := exec.LookPath(name); err != nil {
		name = "testssl.sh"
	}
	var found []struct{ ID, Severity, Finding string }
	out := tool(t, "--jsonfile=", name, "--quiet", "--color", "0", "--warnings", "off", "--nodns", "none", "--add-ca", ca,
		"-p", "-s", "-f", "-P", "-S", "-h", "-U", addr)
	if err := json.Unmarshal(out, &found); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	sound := 0
	for _, f := range found {
		switch f.Severity {
		case "OK":
			sound++
		case "INFO":
		default:
			if accepted[f.ID] == "" {
				t.Errorf("%s %s: %s", f.Severity, f.ID, f.Finding)
			}
		}
	}
	if t.Logf("testssl.sh has found %d things, %d of them in order", len(found), sound); sound < 30 {
		t.Errorf("the scan has shown nothing:\n%s", out)
	}
}

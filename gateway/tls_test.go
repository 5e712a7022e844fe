package gateway

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// writeCert puts a new certificate for the name into the two files.
func writeCert(t *testing.T, certFile, keyFile, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Unix(0, 0), NotAfter: time.Now().Add(100 * 365 * 24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func certFiles(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	dir := t.TempDir()
	return filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
}

// handshake connects and answers the name in the server's certificate.
func handshake(t *testing.T, addr string, cfg *tls.Config) (string, tls.ConnectionState, error) {
	t.Helper()
	if cfg == nil {
		cfg = &tls.Config{}
	}
	cfg.InsecureSkipVerify = true
	conn, err := (&tls.Dialer{Config: cfg}).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		return "", tls.ConnectionState{}, err
	}
	defer conn.Close()
	state := conn.(*tls.Conn).ConnectionState()
	return state.PeerCertificates[0].Subject.CommonName, state, nil
}

func TestTLS(t *testing.T) {
	certFile, keyFile := certFiles(t)
	writeCert(t, certFile, keyFile, "one.example")
	g := start(t, func(c *Config) { c.TLSCert, c.TLSKey = certFile, keyFile })
	addr := g.Addr(Pub)

	for name, cfg := range map[string]*tls.Config{
		"1.0": {MaxVersion: tls.VersionTLS10}, "1.1": {MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11},
		"1.2 with CBC":           {MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA}},
		"1.2, no forward secret": {MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256}},
	} {
		if _, _, err := handshake(t, addr, cfg); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	for name, cfg := range map[string]*tls.Config{"1.2": {MaxVersion: tls.VersionTLS12}, "1.3": {MinVersion: tls.VersionTLS13}} {
		if _, _, err := handshake(t, addr, cfg); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, proto := range []string{"h2", "http/1.1"} {
		if _, state, err := handshake(t, addr, &tls.Config{NextProtos: []string{proto}}); err != nil || state.NegotiatedProtocol != proto {
			t.Errorf("%s: %q, %v", proto, state.NegotiatedProtocol, err)
		}
	}

	writeCert(t, certFile, keyFile, "two.example")
	if err := g.Reload(g.cfg); err != nil {
		t.Fatal(err)
	}
	if name, _, err := handshake(t, addr, nil); name != "two.example" || err != nil {
		t.Errorf("after reload: %q, %v", name, err)
	}
	if err := os.WriteFile(keyFile, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := g.Reload(g.cfg); err == nil || !strings.Contains(err.Error(), keyFile) {
		t.Errorf("a broken key: %v", err)
	}
	if name, _, err := handshake(t, addr, nil); name != "two.example" || err != nil {
		t.Errorf("after a failed reload: %q, %v", name, err)
	}
}

// The certificate follows its files by itself, and holds on to the last good one.
func TestCertificateFollowsItsFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		certFile, keyFile := certFiles(t)
		writeCert(t, certFile, keyFile, "one.example")
		logged := new(safeBuffer)
		c, err := loadCertificate(certFile, keyFile, NewLogger(logged, nil, "json"))
		if err != nil {
			t.Fatal(err)
		}
		if n := nameOf(t, c); n != "one.example" {
			t.Fatalf("at first %s", n)
		}
		if err := os.WriteFile(keyFile, []byte("half of a"), 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(certEvery) //nolint:forbidigo // fake time
		if n := nameOf(t, c); n != "one.example" || !strings.Contains(logged.String(), "can't be used") {
			t.Errorf("with half a pair: %s; logged %s", n, logged)
		}
		writeCert(t, certFile, keyFile, "two.example")
		if n := nameOf(t, c); n != "one.example" {
			t.Errorf("%s: looked at the files for each handshake", n)
		}
		time.Sleep(certEvery) //nolint:forbidigo // fake time
		if n := nameOf(t, c); n != "two.example" {
			t.Errorf("after a change: %s", n)
		}
	})
}

func nameOf(t *testing.T, c *certificate) string {
	t.Helper()
	pair, err := c.config().GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	return pair.Leaf.Subject.CommonName
}

// Browsers are told to come back to role man by HTTPS only, also when they are refused; others have no use for that.
func TestStrictTransportSecurity(t *testing.T) {
	certFile, keyFile := certFiles(t)
	writeCert(t, certFile, keyFile, "one.example")
	g := start(t, func(c *Config) { c.TLSCert, c.TLSKey, c.Plugins = certFile, keyFile, []string{"auth"} })
	g.client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
	for _, tc := range []struct {
		role Role
		path string
		want string
	}{{Man, "/v1/apps", "max-age=31536000"}, {Man, "/nothing", ""}, {Pub, "/alive", ""}} {
		resp, err := g.client.Get("https://" + g.Addr(tc.role) + tc.path)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if got := resp.Header.Get("Strict-Transport-Security"); got != tc.want {
			t.Errorf("%s %s: %q", tc.role, tc.path, got)
		}
	}
}

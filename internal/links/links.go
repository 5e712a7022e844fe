// Package links has what secures the connections that we open to others: whom they must prove to be, and by what we prove
// who we are. All of it is in files, which are looked at whenever a connection is made, so that an operator can replace them
// under way. Files that can't be used, as while only one of two is replaced yet, leave the last good content in place.
package links

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
)

// maxFile is the longest file that is read: authorities of all the world have a quarter of it.
const maxFile = 1 << 20

// Files are those of TLS, in PEM. CA has the authorities that a server's certificate must come from; "" is those of the
// system. Cert and Key are what we show of ourselves; both or none.
type Files struct{ CA, Cert, Key string }

// TLS is a client's side of TLS, which follows its files.
type TLS struct {
	files Files
	log   *slog.Logger

	mu     sync.Mutex
	seen   [3][]byte
	failed string // the complaint that was told last
	config *tls.Config
}

// LoadTLS reads the files.
func LoadTLS(files Files, log *slog.Logger) (*TLS, error) {
	t := &TLS{files: files, log: log}
	content, err := t.read()
	if err != nil {
		return nil, err
	}
	t.seen = content
	t.config, err = t.parse(content)
	return t, err
}

// Config is for a connection made now. It must be cloned before it is changed. There is no session cache: each connection
// looks at the other's certificate anew.
func (t *TLS) Config() *tls.Config {
	t.mu.Lock()
	defer t.mu.Unlock()
	content, err := t.read()
	if err == nil && same(content, t.seen) {
		t.failed = ""
		return t.config
	}
	var config *tls.Config
	if err == nil {
		config, err = t.parse(content)
	}
	if err != nil {
		if t.failed != err.Error() {
			t.failed = err.Error()
			t.log.Error("changed files of TLS can't be used; what was read before stays", "error", err)
		}
		return t.config
	}
	t.seen, t.config, t.failed = content, config, ""
	t.log.Info("files of TLS read anew", "ca", t.files.CA, "cert", t.files.Cert)
	return t.config
}

func same(a, b [3][]byte) bool {
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

func (t *TLS) read() (content [3][]byte, err error) {
	for i, name := range []string{t.files.CA, t.files.Cert, t.files.Key} {
		if name == "" {
			continue
		}
		if content[i], err = readFile(name); err != nil {
			return content, err
		}
	}
	return content, nil
}

func (t *TLS) parse(content [3][]byte) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if t.files.CA != "" {
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(content[0]) {
			return nil, fmt.Errorf("there is no certificate in PEM in %s", t.files.CA)
		}
	}
	if t.files.Cert == "" {
		return c, nil
	}
	pair, err := tls.X509KeyPair(content[1], content[2])
	if err != nil {
		return nil, fmt.Errorf("certificate %s with key %s: %w", t.files.Cert, t.files.Key, err)
	}
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil } // whoever the server believes: its refusal is clearer than our silence
	return c, nil
}

// readFile reads a file that may not be longer than maxFile.
func readFile(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxFile || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: %w", name, errors.New("no file, or longer than 1 MiB"))
	}
	return os.ReadFile(name)
}

package gateway

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// certEvery is how often, at most, a handshake looks whether the files have changed.
const certEvery = 2 * time.Second

// certificate is the one that is served. It follows its files: on request, and by itself when they change. Files that
// can't be used, as while only one of the two is replaced yet, leave the last good one in place.
type certificate struct {
	certFile, keyFile string
	log               *slog.Logger

	mu     sync.Mutex
	pair   *tls.Certificate
	seen   [2]fileState
	looked time.Time
}

// fileState tells one content of a file from another.
type fileState struct {
	modified time.Time
	size     int64
}

// loadCertificate reads the two files.
func loadCertificate(certFile, keyFile string, log *slog.Logger) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile, log: log}
	return c, c.reload()
}

// config is what listeners need: TLS 1.2 with forward secrecy and authenticated ciphers only, and 1.3, which has no others.
func (c *certificate) config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.current(), nil },
	}
}

// reload reads the files now.
func (c *certificate) reload() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.looked = time.Now()
	return c.read(c.states())
}

// current is the certificate for a handshake.
func (c *certificate) current() *tls.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.looked) < certEvery {
		return c.pair
	}
	c.looked = time.Now()
	states := c.states()
	if states == c.seen {
		return c.pair
	}
	if err := c.read(states); err != nil {
		c.log.Error("the changed certificate can't be used; the one before stays", "error", err)
	}
	return c.pair
}

// read takes the files' content; states was taken before, so that a change meanwhile is seen next time.
func (c *certificate) read(states [2]fileState) error {
	c.seen = states
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("certificate %s with key %s: %w", c.certFile, c.keyFile, err)
	}
	changed := c.pair != nil
	c.pair = &pair
	if changed {
		c.log.Info("certificate read anew", "subject", pair.Leaf.Subject.String(), "until", pair.Leaf.NotAfter)
	}
	return nil
}

func (c *certificate) states() [2]fileState {
	var s [2]fileState
	for i, name := range []string{c.certFile, c.keyFile} {
		s[i] = stateOf(name)
	}
	return s
}

// stateOf is zero where there is no file.
func stateOf(name string) fileState {
	info, err := os.Stat(name)
	if err != nil {
		return fileState{}
	}
	return fileState{info.ModTime(), info.Size()}
}

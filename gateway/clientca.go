package gateway

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// The values of --tls-client-auth.
const (
	clientAuthRequest = "request"
	clientAuthRequire = "require"
)

// clientCA asks clients for certificates of an authority, which follows its file as the gateway's own certificate does. A file
// that can't be used leaves the last good authority in place.
type clientCA struct {
	file string
	must bool // who shows no certificate is hung up on
	log  *slog.Logger

	mu     sync.Mutex
	pool   *x509.CertPool
	seen   fileState
	looked time.Time
}

func loadClientCA(file, mode string, log *slog.Logger) (*clientCA, error) {
	c := &clientCA{file: file, must: mode == clientAuthRequire, log: log}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c, c.read(stateOf(file))
}

// read takes the file's content; state was taken before, so that a change meanwhile is seen next time.
func (c *clientCA) read(state fileState) error {
	c.seen, c.looked = state, time.Now()
	pem, err := os.ReadFile(c.file)
	if err != nil {
		return fmt.Errorf("authority of clients: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return fmt.Errorf("authority of clients: %w in %s", errors.New("no certificate"), c.file)
	}
	if c.pool != nil {
		c.log.Info("authority of clients read anew", "file", c.file)
	}
	c.pool = pool
	return nil
}

// current is the authority for a handshake.
func (c *clientCA) current() *x509.CertPool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.looked) >= certEvery {
		c.looked = time.Now()
		if state := stateOf(c.file); state != c.seen {
			if err := c.read(state); err != nil {
				c.log.Error("the changed authority of clients can't be used; the one before stays", "error", err)
			}
		}
	}
	return c.pool
}

// ask has a listener ask for certificates. With another authority come other keys of session tickets, so that no session goes
// on that one before had let in.
func (c *clientCA) ask(base *tls.Config) {
	base.ClientAuth = tls.VerifyClientCertIfGiven
	if c.must {
		base.ClientAuth = tls.RequireAndVerifyClientCert
	}
	base.ClientCAs = c.current()
	plain := base.Clone()
	plain.NextProtos = []string{"h2", "http/1.1"} // as net/http has them, which does not see this one
	var mu sync.Mutex
	base.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		pool := c.current()
		mu.Lock()
		defer mu.Unlock()
		if plain.ClientCAs != pool {
			plain = plain.Clone()
			plain.ClientCAs = pool
		}
		return plain, nil
	}
}

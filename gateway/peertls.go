package gateway

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"

	"github.com/kateway/kateway/peer"
)

// peerTLS is by what gateways know each other where they do so by certificates: each shows one of the same authority.
type peerTLS struct {
	own *certificate
	ca  *x509.CertPool
}

func loadPeerTLS(g *Gateway) (*peerTLS, error) {
	own, err := loadCertificate(g.cfg.PeerTLSCert, g.cfg.PeerTLSKey, g.log)
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(g.cfg.PeerTLSCA)
	if err != nil {
		return nil, fmt.Errorf("authority of the peers: %w", err)
	}
	t := &peerTLS{own: own, ca: x509.NewCertPool()}
	if !t.ca.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("authority of the peers: %w in %s", errors.New("no certificate"), g.cfg.PeerTLSCA)
	}
	return t, nil
}

// server lets in only who shows a certificate of the authority.
func (t *peerTLS) server() *tls.Config {
	c := t.own.config()
	c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, t.ca
	return c
}

// client shows our own, and wants the other's to be of the authority and for the host that it advertises.
func (t *peerTLS) client() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		RootCAs:    t.ca,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return t.own.current(), nil
		},
	}
}

// newPool makes what speaks to the other gateways.
func (g *Gateway) newPool() (*peer.Pool, error) {
	cfg := peer.PoolConfig{Self: g.cfg.ID, Secrets: g.cluster.peerSecrets, Log: g.log}
	if g.cfg.PeerTLSCert != "" {
		var err error
		if g.peerTLS, err = loadPeerTLS(g); err != nil {
			return nil, err
		}
		cfg.TLS = g.peerTLS.client()
	}
	return peer.NewPool(cfg), nil
}

package gateway

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// authority signs certificates for tests.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, file: filepath.Join(t.TempDir(), "ca.pem")}
	a.cert, a.key = a.sign(&x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, a.file, "")
	return a
}

// sign makes a key and a certificate for it, by the authority, or, while there is none yet, by itself.
func (a *authority) sign(template *x509.Certificate, certFile, keyFile string) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	a.write(certFile, "CERTIFICATE", der)
	if keyFile != "" {
		b, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			a.t.Fatal(err)
		}
		a.write(keyFile, "PRIVATE KEY", b)
	}
	return cert, key
}

func (a *authority) write(file, kind string, b []byte) {
	a.t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

// gateway is a gateway's side, with a certificate of its own for the host, that trusts the authority.
func (a *authority) gateway(host string) *peerTLS {
	a.t.Helper()
	dir := a.t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	a.sign(&x509.Certificate{
		SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.ParseIP(host)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, certFile, keyFile)
	p, err := loadPeerTLS(&Gateway{cfg: Config{PeerTLSCert: certFile, PeerTLSKey: keyFile, PeerTLSCA: a.file}, log: slog.New(slog.DiscardHandler)})
	if err != nil {
		a.t.Fatal(err)
	}
	return p
}

// Gateways that know each other by certificates let in who shows one of the same authority, and go to no other.
func TestPeersByCertificate(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	server := ours.gateway("127.0.0.1").server()
	without := ours.gateway("127.0.0.1").client()
	without.GetClientCertificate = nil
	stranger := theirs.gateway("127.0.0.1").client()
	stranger.RootCAs = ours.gateway("127.0.0.1").client().RootCAs
	for name, c := range map[string]struct {
		server, client *tls.Config
		ok             bool
	}{
		"one of ours":              {server, ours.gateway("127.0.0.1").client(), true},
		"no certificate":           {server, without, false},
		"another authority's":      {server, stranger, false},
		"a server of another":      {theirs.gateway("127.0.0.1").server(), ours.gateway("127.0.0.1").client(), false},
		"a server on a wrong host": {ours.gateway("127.0.0.2").server(), ours.gateway("127.0.0.1").client(), false},
	} {
		t.Run(name, func(t *testing.T) {
			ln, err := tls.Listen("tcp", "127.0.0.1:0", c.server)
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			done := make(chan error, 1)
			go func() {
				conn, err := ln.Accept()
				if err == nil {
					_, err = conn.Write([]byte("x")) // after the handshake
					conn.Close()
				}
				done <- err
			}()
			config := c.client.Clone()
			config.ServerName = "127.0.0.1"
			raw, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			_, err = tls.Client(raw, config).Read(make([]byte, 1)) // in TLS 1.3 a client learns only now that it was refused
			raw.Close()
			if served := <-done; (err == nil && served == nil) != c.ok {
				t.Errorf("client: %v, server: %v", err, served)
			}
		})
	}
}

func TestPeerCertificatesThatAreNone(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	a := newAuthority(t)
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	a.sign(&x509.Certificate{SerialNumber: big.NewInt(3), NotAfter: time.Now().Add(time.Hour)}, certFile, keyFile)
	for name, cfg := range map[string]Config{
		"no authority":       {PeerTLSCert: certFile, PeerTLSKey: keyFile, PeerTLSCA: filepath.Join(dir, "none")},
		"an empty authority": {PeerTLSCert: certFile, PeerTLSKey: keyFile, PeerTLSCA: empty},
		"no key":             {PeerTLSCert: certFile, PeerTLSKey: empty, PeerTLSCA: a.file},
	} {
		if _, err := loadPeerTLS(&Gateway{cfg: cfg, log: slog.New(slog.DiscardHandler)}); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

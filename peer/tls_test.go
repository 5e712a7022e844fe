package peer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/kateway/kateway/internal/errs"
)

// authority signs certificates of gateways on this machine.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{cert: &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}}
	a.key = newKey(t)
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a *authority) sign(t *testing.T, cert *x509.Certificate, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, cert, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// config is a gateway's, for both sides: it shows a certificate of this authority and asks for one.
func (a *authority) config(t *testing.T) *tls.Config {
	t.Helper()
	key := newKey(t)
	der := a.sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "gateway"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}, key)
	root, err := x509.ParseCertificate(a.sign(t, a.cert, a.key))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(root)
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		RootCAs:      roots, ClientCAs: roots, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13,
	}
}

func TestCertificates(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	ln := &counted{Listener: local(t)}
	addr, _ := serve(t, ln, handler(Routes(&fakeNode{})), ours.config(t))

	p, lists := pool(t, PoolConfig{TLS: ours.config(t), Secrets: always(nil)})
	tell(lists, at("gw2", addr))
	for range 2 {
		if err := only(t, p).Refresh(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if n := ln.n.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}

	without := ours.config(t)
	without.Certificates = nil
	for name, config := range map[string]*tls.Config{"no certificate": without, "another authority": theirs.config(t)} {
		t.Run(name, func(t *testing.T) {
			p, lists := pool(t, PoolConfig{TLS: config})
			tell(lists, at("gw2", addr))
			if err := only(t, p).Refresh(t.Context()); !errors.Is(err, errs.Unavailable) {
				t.Errorf("%v", err)
			}
		})
	}
}

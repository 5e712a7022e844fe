package gateway

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/plugins"
	"github.com/kateway/kateway/store"
	"github.com/kateway/kateway/store/mem"
)

// client is a client with a certificate of the template; nil is one without.
func (a *authority) client(template *x509.Certificate) *http.Transport {
	a.t.Helper()
	cfg := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12}
	cfg.RootCAs.AddCert(a.cert)
	if template != nil {
		dir := a.t.TempDir()
		certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
		template.SerialNumber = big.NewInt(7)
		if template.NotAfter.IsZero() {
			template.NotAfter = time.Now().Add(time.Hour)
		}
		if template.ExtKeyUsage == nil {
			template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		}
		a.sign(template, certFile, keyFile)
		pair, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			a.t.Fatal(err)
		}
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil } // asked for or not
	}
	tr := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: true}
	a.t.Cleanup(tr.CloseIdleConnections)
	return tr
}

const mapped = `
certificates:
- {san: "dns:orders.shop.example", app: shop}
- {san: "uri:spiffe://example/shop/orders", app: shop, ops: [sub]}
- {san: "email:shop@example.com", app: shop}
- {san: "ip:192.0.2.7", app: shop}
- {san: "dns:bill.example", app: bill}
- {san: "dns:nobody.example", app: nobody}
`

// startTLS runs a gateway with TLS and auth, that asks clients for certificates of the authority.
func startTLS(t *testing.T, a *authority, mode string) *running {
	t.Helper()
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	a.sign(&x509.Certificate{SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.ParseIP("127.0.0.1")}}, certFile, keyFile)
	cfg := testConfig(t)
	cfg.TLSCert, cfg.TLSKey, cfg.TLSClientCA, cfg.TLSClientAuth = certFile, keyFile, a.file, mode
	cfg.Plugins, cfg.PluginOptions = []string{"auth"}, map[string]plugins.Options{"auth": plugins.ParseOptions(mapped)}
	g := startWith(t, mem.New(), cfg, Deps{})
	tenants(t, g, "shop", "bill")
	return g
}

func publishOver(t *testing.T, tr *http.Transport, g *running, head ...string) (int, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+g.Addr(Pub)+"/v1/msgs/orders/v1", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range head {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Set(name, value)
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	resp.Body.Close()
	return resp.StatusCode, nil
}

// Row X50: who a certificate speaks for is said by its subject alternative names, exactly, and by nothing else in it.
func TestCertificatesOfClients(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	g := startTLS(t, a, clientAuthRequest)
	spiffe, _ := url.Parse("spiffe://example/shop/orders")
	deeper, _ := url.Parse("spiffe://example/shop/orders/x")
	dns := func(names ...string) *x509.Certificate { return &x509.Certificate{DNSNames: names} }
	cn := func(s string) *x509.Certificate {
		return &x509.Certificate{Subject: pkix.Name{CommonName: s}, DNSNames: []string{"else.example"}}
	}
	for _, k := range []struct {
		name string
		cert *x509.Certificate
		want int
		head []string
	}{
		{"dns", dns("orders.shop.example"), 201, nil},
		{"dns among others", dns("a.example", "orders.shop.example"), 201, nil},
		{"email", &x509.Certificate{EmailAddresses: []string{"shop@example.com"}}, 201, nil},
		{"ip", &x509.Certificate{IPAddresses: []net.IP{net.ParseIP("192.0.2.7")}}, 201, nil},
		{"uri, which may only subscribe", &x509.Certificate{URIs: []*url.URL{spiffe}}, 403, nil},
		{"uri that is longer", &x509.Certificate{URIs: []*url.URL{deeper}}, 401, nil},
		{"none", nil, 401, nil},
		{"a name that is not mapped", dns("else.example"), 401, nil},
		{"a name that begins the same", dns("orders.shop.example.evil"), 401, nil},
		{"a name that ends the same", dns("evil.orders.shop.example"), 401, nil},
		{"a wildcard over it", dns("*.shop.example"), 401, nil},
		{"other letters", dns("ORDERS.shop.example"), 401, nil},
		{"a dot at its end", dns("orders.shop.example."), 401, nil},
		{"common name alone", cn("orders.shop.example"), 401, nil},
		{"common name with an order of its own", cn("x,CN=orders.shop.example"), 401, nil},
		{"common name with an escape", cn(`x\2CCN=shop`), 401, nil},
		{"a dns name as uri", &x509.Certificate{URIs: []*url.URL{{Opaque: "orders.shop.example", Scheme: "dns"}}}, 401, nil},
		{"names of two apps", dns("orders.shop.example", "bill.example"), 401, nil},
		{"an app that is not there", dns("nobody.example"), 401, nil},
		{"another app's claim", dns("orders.shop.example"), 401, []string{"Appid: bill"}},
		{"its own claim", dns("orders.shop.example"), 201, []string{"Appid: shop"}},
		{"half a key beside it", dns("orders.shop.example"), 401, []string{"Pubkey: x.y"}},
		{"a wrong key beside it", dns("orders.shop.example"), 401, []string{"Appid: shop", "Pubkey: x.y"}},
	} {
		if got, err := publishOver(t, a.client(k.cert), g, k.head...); got != k.want || err != nil {
			t.Errorf("%s: %d, %v; want %d", k.name, got, err, k.want)
		}
	}
	forged := other.client(dns("orders.shop.example"))
	forged.TLSClientConfig.RootCAs = a.client(nil).TLSClientConfig.RootCAs
	for name, tr := range map[string]*http.Transport{
		"of another authority":      forged,
		"that has expired":          a.client(&x509.Certificate{DNSNames: []string{"orders.shop.example"}, NotAfter: time.Now().Add(-time.Minute)}),
		"that is not for clients":   a.client(&x509.Certificate{DNSNames: []string{"orders.shop.example"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}),
		"that is made by itself":    selfMade(t, a, dns("orders.shop.example")),
		"of a client's certificate": underLeaf(t, a, dns("orders.shop.example")),
	} {
		if got, err := publishOver(t, tr, g); err == nil {
			t.Errorf("a certificate %s: %d", name, got)
		}
	}
}

// selfMade is a certificate that nobody else has signed.
func selfMade(t *testing.T, a *authority, template *x509.Certificate) *http.Transport {
	t.Helper()
	tr := (&authority{t: t}).bare(template)
	tr.TLSClientConfig.RootCAs = a.client(nil).TLSClientConfig.RootCAs
	return tr
}

// underLeaf is one that was signed by a client's key, which is no authority.
func underLeaf(t *testing.T, a *authority, template *x509.Certificate) *http.Transport {
	t.Helper()
	cert, key := a.sign(&x509.Certificate{SerialNumber: big.NewInt(9), Subject: pkix.Name{CommonName: "leaf"}, NotAfter: time.Now().Add(time.Hour)}, filepath.Join(t.TempDir(), "leaf.pem"), "")
	tr := (&authority{t: t, cert: cert, key: key}).bare(template)
	tr.TLSClientConfig.RootCAs = a.client(nil).TLSClientConfig.RootCAs
	return tr
}

// bare is a client with a certificate of the authority's, or of its own making, that knows no authority.
func (a *authority) bare(template *x509.Certificate) *http.Transport {
	dir := a.t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	template.SerialNumber, template.NotAfter = big.NewInt(8), time.Now().Add(time.Hour)
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	a.sign(template, certFile, keyFile)
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		a.t.Fatal(err)
	}
	return &http.Transport{TLSClientConfig: &tls.Config{
		ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil },
	}}
}

// With require, nobody without a certificate gets as far as a request; the management API is not concerned.
func TestCertificatesAreRequired(t *testing.T) {
	a := newAuthority(t)
	g := startTLS(t, a, clientAuthRequire)
	if got, err := publishOver(t, a.client(nil), g); err == nil {
		t.Errorf("without a certificate: %d", got)
	}
	if got, err := publishOver(t, a.client(&x509.Certificate{DNSNames: []string{"orders.shop.example"}}), g); got != 201 || err != nil {
		t.Errorf("with one: %d, %v", got, err)
	}
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+g.Addr(Man)+"/alive", nil)
	resp, err := a.client(nil).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
}

// An authority that is replaced counts for the next connection; a file that can't be used changes nothing.
func TestAuthorityOfClientsFollowsItsFile(t *testing.T) {
	a, next := newAuthority(t), newAuthority(t)
	g := startTLS(t, a, clientAuthRequest)
	leaf := &x509.Certificate{DNSNames: []string{"orders.shop.example"}}
	old := a.client(leaf)
	fresh := next.client(leaf)
	fresh.TLSClientConfig.RootCAs = old.TLSClientConfig.RootCAs
	try := func(tr *http.Transport) bool {
		tr.CloseIdleConnections()
		g.clientCA.mu.Lock()
		g.clientCA.looked = time.Time{}
		g.clientCA.mu.Unlock()
		got, err := publishOver(t, tr, g)
		return err == nil && got == 201
	}
	if !try(old) || try(fresh) {
		t.Fatal("not as it is to begin with")
	}
	write := func(b []byte) {
		if err := os.WriteFile(a.file, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write([]byte("nonsense"))
	if !try(old) || !strings.Contains(g.logged.String(), "the one before stays") {
		t.Error("a file that can't be used has changed something, or is not told of")
	}
	b, err := os.ReadFile(next.file)
	if err != nil {
		t.Fatal(err)
	}
	write(b)
	if try(old) || !try(fresh) {
		t.Error("the file was replaced, and the authority was not")
	}
}

// A certificate goes along when a request is passed to the process that takes over, and nothing else is taken for one.
func TestCertificateOverALane(t *testing.T) {
	leaf, _ := newAuthority(t).sign(&x509.Certificate{SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"a.example"}}, filepath.Join(t.TempDir(), "x"), "")
	got := tlsFromLane(tlsForLane(&tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{leaf, leaf}}}))
	if got == nil || len(got.VerifiedChains) != 1 || !got.VerifiedChains[0][0].Equal(leaf) {
		t.Errorf("%+v", got)
	}
	if got := tlsFromLane(tlsForLane(&tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}})); got == nil || got.VerifiedChains != nil {
		t.Errorf("a certificate that was not verified: %+v", got)
	}
	if tlsFromLane("") != nil {
		t.Error("clear text is taken for TLS")
	}
}

func TestClientAuthIsChecked(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"over TLS only":        func(c *Config) { c.TLSClientCA = "ca.pem" },
		"neither request nor":  func(c *Config) { c.TLSClientAuth = "maybe" },
		"there is no --tls-cl": func(c *Config) { c.TLSClientAuth = clientAuthRequire },
	} {
		c := Default()
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, without %q", err, want)
		}
	}
}

// tenants registers apps, each with a topic orders v1, keys aside.
func tenants(t *testing.T, g *running, apps ...string) {
	t.Helper()
	await(t, "meta", func() bool { return g.cluster.meta.Snapshot().Revision() > 0 })
	for _, app := range apps {
		put(t, g, &meta.App{Name: app, Class: meta.ClassStandard})
		put(t, g, &meta.TopicRecord{App: app, Name: "orders", Ver: "v1", Partitions: 1, MaxAttempts: 16})
	}
}

// put registers a record, and makes what it needs in the store.
func put(t *testing.T, g *running, r meta.Record) {
	t.Helper()
	if _, err := g.cluster.meta.Put(t.Context(), r, ""); err != nil {
		t.Fatal(err)
	}
	if topic, ok := r.(*meta.TopicRecord); ok {
		if err := g.store.CreateTopic(t.Context(), store.Topic{Name: topic.Place(), Partitions: 1}); err != nil {
			t.Fatal(fmt.Errorf("%s: %w", topic.Place(), err))
		}
	}
}

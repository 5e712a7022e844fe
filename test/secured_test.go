package test

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/testkit"
	"github.com/kateway/kateway/internal/zk"
)

const (
	secretOfMe     = "canary-8d1f-me"
	secretOfOld    = "canary-55ab-old"
	wrongSecret    = "canary-77c0-wrong"
	reauthenticate = 2 // seconds
)

// secured is a Kafka of Java that takes no word from who has not shown a password over TLS, by several listeners: one in
// order, one that also wants a certificate, one with the certificate of another host, one whose certificate has expired.
type secured struct {
	*testkit.Cluster
	ours, theirs *testkit.Authority // theirs has signed nothing of it
	cert, key    string             // of a client
}

func securedKafka(t *testing.T) *secured {
	s := &secured{ours: testkit.NewAuthority(t), theirs: testkit.NewAuthority(t)}
	listener := func(name, host string, ends time.Time, clientCA string) testkit.Listener {
		cert, key := s.ours.For(host, ends)
		return testkit.Listener{Name: name, Cert: cert, Key: key, ClientCA: clientCA}
	}
	s.cert, s.key = s.ours.For("gateway", time.Time{})
	s.Cluster = testkit.Kafka(t, testkit.Secured(map[string]string{"me": secretOfMe, "old": secretOfOld}, reauthenticate,
		listener("good", "127.0.0.1", time.Time{}, ""),
		listener("mutual", "127.0.0.1", time.Time{}, s.ours.File),
		listener("othername", "127.0.0.2", time.Time{}, ""),
		listener("expired", "127.0.0.1", time.Now().Add(-time.Minute), "")))
	return s
}

// flags are those of a gateway; it spools nothing, so that what Kafka does not take is refused.
func (s *secured) flags(listener, ca, mechanism, file string) []string {
	return []string{"--kafka", strings.Join(s.SecuredAddrs(listener), ","), "--kafka-tls", "--kafka-tls-ca", ca,
		"--kafka-sasl", mechanism, "--kafka-sasl-file", file, "--spool", "off"}
}

func credentials(t *testing.T, content string) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// noCanary wants that nothing the gateway has said or kept has a password.
func (g *gateway) noCanary(dir string) {
	g.t.Helper()
	text := g.log.last(math.MaxInt32)
	_, _, detail := g.health("pub")
	for _, d := range detail {
		text += d
	}
	for _, path := range []string{"/v1/status", "/metrics"} {
		if a, err := g.manage("GET", path); err == nil {
			text += a
		}
	}
	if strings.Contains(text, "canary-") {
		g.t.Error("a password is in the log, the metrics, or what the gateway says of itself")
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if bytes.Contains(b, []byte("canary-")) {
			g.t.Errorf("a password is in %s", path)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // files of the store come and go
		g.t.Error(err)
	}
}

// A Kafka with SASL over TLS is published to and read from, by each mechanism. A broker that is not who it should be is told
// nothing, the answer is 503, and what the operator is told says why, without the password.
func TestSecuredKafka(t *testing.T) {
	t.Parallel()
	k := securedKafka(t)
	flags := k.flags
	t.Run("rotates", k.rotates)
	me := credentials(t, "me:"+secretOfMe+"\n")
	for name, f := range map[string][]string{
		"plain":         flags("good", k.ours.File, "plain", me),
		"scram-sha-512": append(flags("mutual", k.ours.File, "scram-sha-512", me), "--kafka-tls-cert", k.cert, "--kafka-tls-key", k.key),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			g := launch(t, append(f, "--data", dir)...)
			c := g.client(appOf(t))
			c.publish("orders", "k", "over TLS")
			if got := c.pollUntil(1, "orders", "&reset=oldest"); got[0].text() != "over TLS" {
				t.Errorf("got %+v", got)
			}
			g.noCanary(dir)
			g.stop()
		})
	}
	for name, c := range map[string]struct {
		flags []string
		why   string
	}{
		"wrong authority": {flags("good", k.theirs.File, "scram-sha-512", me), "unknown authority"},
		"other name":      {flags("othername", k.ours.File, "scram-sha-512", me), "not 127.0.0.1"},
		"expired":         {flags("expired", k.ours.File, "scram-sha-512", me), "expired"},
		"no certificate":  {flags("mutual", k.ours.File, "scram-sha-512", me), "bad certificate"},
		"plain, wrong":    {flags("good", k.ours.File, "plain", credentials(t, "me:"+wrongSecret)), "SASL_AUTHENTICATION_FAILED"},
		"scram, wrong":    {flags("good", k.ours.File, "scram-sha-512", credentials(t, "me:"+wrongSecret)), "SASL_AUTHENTICATION_FAILED"},
		"unknown user":    {flags("good", k.ours.File, "scram-sha-512", credentials(t, "nobody:"+wrongSecret)), "SASL_AUTHENTICATION_FAILED"},
		"no TLS":          {[]string{"--kafka", strings.Join(k.SecuredAddrs("good"), ","), "--kafka-sasl", "scram-sha-512", "--kafka-sasl-file", me, "--spool", "off"}, "TLS"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			g := launchUnready(t, append(c.flags, "--data", dir)...)
			waitFor(t, "the log to say "+c.why, func() bool { return strings.Contains(g.log.tail(), c.why) })
			status, _, detail := g.health("pub")
			if status != http.StatusServiceUnavailable {
				t.Errorf("ready: %d, %v", status, detail)
			}
			g.client(appOf(t)).want(http.StatusServiceUnavailable, "POST", "/v1/msgs/orders/v1", strings.NewReader("x"))
			g.noCanary(dir)
		})
	}
}

// rotates replaces credentials in their file: Kafka is shown them when it asks again, which it does on connections that are there;
// no publish fails over it, also when the old ones have been taken away since.
func (s *secured) rotates(t *testing.T) {
	t.Parallel()
	dir, file := t.TempDir(), credentials(t, "old:"+secretOfOld)
	g := launch(t, append(s.flags("good", s.ours.File, "scram-sha-512", file), "--data", dir)...)
	c := g.client(appOf(t))
	c.publish("orders", "", "first")
	l := newLoad(t)
	l.run("p", "orders", func() []*client { return []*client{c} })
	during := func(d time.Duration) {
		t.Helper()
		at, end := l.count(), time.Now().Add(d)
		waitFor(t, "publishes to go on", func() bool { return time.Now().After(end) && l.count() > at })
	}
	if err := os.WriteFile(file, []byte("me:"+secretOfMe), 0o600); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the file to be read anew", func() bool { return strings.Contains(g.log.last(math.MaxInt32), "credentials read anew") })
	during(2 * reauthenticate * time.Second) // each connection has shown them
	cl, err := kgo.NewClient(kgo.SeedBrokers(s.Addrs()...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	gone, err := kadm.NewClient(cl).AlterUserSCRAMs(t.Context(), []kadm.DeleteSCRAM{{User: "old", Mechanism: kadm.ScramSha512}}, nil)
	if err != nil || !gone.Ok() {
		t.Fatal(err, gone)
	}
	during(2 * reauthenticate * time.Second)
	l.end()
	if len(l.failed) > 0 {
		t.Errorf("%d of %d publishes failed, the first: %s", len(l.failed), l.count(), l.failed[0])
	}
	// The old ones are worth nothing: else all of this would have shown nothing.
	old := launchUnready(t, append(s.flags("good", s.ours.File, "scram-sha-512", credentials(t, "old:"+secretOfOld)), "--data", t.TempDir())...)
	waitFor(t, "the old ones to be refused", func() bool { return strings.Contains(old.log.tail(), "SASL_AUTHENTICATION_FAILED") })
	g.noCanary(dir)
}

// A ZooKeeper by TLS, with credentials: what the gateway makes there nobody else can read or change, and another password does
// not get at it.
func TestSecuredZooKeeper(t *testing.T) {
	t.Parallel()
	ours, theirs := testkit.NewAuthority(t), testkit.NewAuthority(t)
	server := testkit.SecuredZooKeeper(t, ours, "127.0.0.1")
	flags := func(id, dir, ca, password string) []string {
		return []string{"--id", id, "--data", dir, "--peer", "127.0.0.1:0", "--kafka", brokers(t),
			"--zk", server.SecuredAddr(), "--zk-tls", "--zk-tls-ca", ca, "--zk-auth-file", credentials(t, "me:"+password)}
	}
	dir := t.TempDir()
	g := launch(t, flags("gw1", dir, ours.File, secretOfMe)...)
	g.manager().send(http.StatusCreated, "POST", "/v1/apps", map[string]any{"app": appOf(t)})
	g.noCanary(dir)

	stranger, err := zk.Open(zk.Config{Servers: []string{server.Addr()}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	waitFor(t, "a stranger to be connected", func() bool { s, _ := stranger.State(); return s.Connected })
	if _, err := stranger.Children(t.Context(), "/kateway"); !errors.Is(err, errs.Denied) {
		t.Errorf("a stranger asks what there is: %v", err)
	}
	if _, _, err := stranger.Get(t.Context(), "/kateway/gateways/gw1"); !errors.Is(err, errs.Denied) {
		t.Errorf("a stranger reads: %v", err)
	}
	if err := stranger.Delete(t.Context(), "/kateway/gateways/gw1", -1); !errors.Is(err, errs.Denied) {
		t.Errorf("a stranger deletes: %v", err)
	}

	for name, c := range map[string]struct{ ca, password, why string }{
		"wrong authority": {theirs.File, secretOfMe, "unknown authority"},
		"wrong password":  {ours.File, wrongSecret, "not authenticated"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			g := launchUnready(t, flags("gw2", dir, c.ca, c.password)...)
			waitFor(t, "the log to say "+c.why, func() bool { return strings.Contains(g.log.tail(), c.why) })
			if status, _, detail := g.health("pub"); status != http.StatusServiceUnavailable {
				t.Errorf("ready: %d, %v", status, detail)
			}
			g.noCanary(dir)
		})
	}
}

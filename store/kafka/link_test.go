package kafka

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/links"
	"github.com/kateway/kateway/internal/testkit"
	"github.com/kateway/kateway/store"
)

const loopback = "127.0.0.1"

func files(t *testing.T, f links.Files) func() *tls.Config {
	t.Helper()
	l, err := links.LoadTLS(f, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return l.Config
}

func as(mechanism, user, password string) *SASL {
	return &SASL{Mechanism: mechanism, Credentials: func() (string, string) { return user, password }}
}

// secured is a cluster with TLS and SASL, that knows one user by each mechanism.
func secured(t *testing.T, server *tls.Config) *kfake.Cluster {
	t.Helper()
	opts := []kfake.Opt{
		kfake.SeedTopics(2, "t"), kfake.EnableSASL(),
		kfake.Superuser("PLAIN", "me", "hidden"), kfake.Superuser("SCRAM-SHA-256", "me", "hidden"), kfake.Superuser("SCRAM-SHA-512", "me", "hidden"),
		kfake.Superuser("SCRAM-SHA-512", "you", "hidden4"),
	}
	if server != nil {
		opts = append(opts, kfake.TLS(server))
	}
	return fake(t, opts...)
}

// works uses each kind of client that there is.
func works(t *testing.T, s *Store) {
	t.Helper()
	if err := s.CreateTopic(t.Context(), store.Topic{Name: "new", Partitions: 1}); err != nil && !errors.Is(err, store.ErrExists) {
		t.Errorf("CreateTopic: %v", err)
	}
	f := joined(t, s, "t", 2)
	for _, ack := range []store.Ack{store.AckAll, store.AckLocal} {
		if err := s.Publish(t.Context(), "t", ack, text(0, "x")); err != nil {
			t.Errorf("Publish: %v", err)
		}
	}
	if got := stored(t, s, "t", 0); len(got) < 2 {
		t.Errorf("%q is stored", got)
	}
	until(t, f, nil, func(all store.Batch) bool { return len(all.Messages) >= 2 })
	if err := f.Close(t.Context()); err != nil {
		t.Errorf("Close: %v", err)
	}
}

func TestLinkWorks(t *testing.T) {
	a := testkit.NewAuthority(t)
	certFile, keyFile := a.For("gateway", time.Time{})
	for _, mechanism := range SASLMechanisms() {
		t.Run(mechanism, func(t *testing.T) {
			t.Parallel()
			c := secured(t, a.Server(loopback, time.Time{}, true))
			works(t, open(t, Config{
				Brokers: c.ListenAddrs(), SASL: as(mechanism, "me", "hidden"), SessionTimeout: time.Second,
				TLS: files(t, links.Files{CA: a.File, Cert: certFile, Key: keyFile}),
			}))
		})
		t.Run(mechanism+" without TLS", func(t *testing.T) {
			t.Parallel()
			works(t, open(t, Config{Brokers: secured(t, nil).ListenAddrs(), SASL: as(mechanism, "me", "hidden"), SessionTimeout: time.Second}))
		})
	}
}

// counting counts connections.
type counting struct{ n atomic.Int64 }

func (c *counting) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c.n.Add(1)
	return (&net.Dialer{}).DialContext(ctx, network, addr)
}

// Whom we can't trust, and who does not trust us, gets no message; publishes are certain not to be stored, which is what the
// spool needs to know, the error says why without the secret, and nobody tries again at once and again.
func TestLinkRefused(t *testing.T) {
	a, b := testkit.NewAuthority(t), testkit.NewAuthority(t)
	ours := links.Files{CA: a.File}
	stranger := ours
	stranger.Cert, stranger.Key = b.For("gateway", time.Time{})
	good, mutual := a.Server(loopback, time.Time{}, false), a.Server(loopback, time.Time{}, true)
	for name, c := range map[string]struct {
		server *tls.Config
		files  *links.Files // nil: no TLS
		sasl   *SASL
		why    string
	}{
		"wrong authority":      {good, &links.Files{CA: b.File}, as(SASLScramSHA512, "me", "hidden"), "unknown authority"},
		"system's authorities": {good, &links.Files{}, as(SASLScramSHA512, "me", "hidden"), "unknown authority"},
		"wrong name":           {a.Server("127.0.0.2", time.Time{}, false), &ours, as(SASLScramSHA512, "me", "hidden"), "not 127.0.0.1"},
		"expired":              {a.Server(loopback, time.Now().Add(-time.Minute), false), &ours, as(SASLScramSHA512, "me", "hidden"), "expired"},
		"no certificate":       {mutual, &ours, as(SASLScramSHA512, "me", "hidden"), "certificate required"},
		"wrong certificate":    {mutual, &stranger, as(SASLScramSHA512, "me", "hidden"), "unknown certificate authority"},
		"brokers with TLS":     {good, nil, as(SASLScramSHA512, "me", "hidden"), "TLS"},
		"plain, wrong":         {good, &ours, as(SASLPlain, "me", "hidden2"), "does it take our credentials"},
		"scram-256, wrong":     {good, &ours, as(SASLScramSHA256, "me", "hidden2"), "does it take our credentials"},
		"scram-512, wrong":     {good, &ours, as(SASLScramSHA512, "me", "hidden2"), "does it take our credentials"},
		"unknown user":         {good, &ours, as(SASLScramSHA512, "hidden3", "hidden"), "does it take our credentials"},
		"no SASL":              {good, &ours, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster := secured(t, c.server)
			var produced atomic.Int64
			cluster.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
				cluster.KeepControl()
				produced.Add(1)
				return nil, nil, false
			})
			var dials counting
			var log lines
			cfg := Config{Brokers: cluster.ListenAddrs(), SASL: c.sasl, dial: dials.dial, SendTimeout: time.Second, Log: slog.New(slog.NewTextHandler(&log, nil))}
			if c.files != nil {
				cfg.TLS = files(t, *c.files)
			}
			refused(t, open(t, cfg), c.why)
			if n := dials.n.Load(); n > 100 {
				t.Errorf("%d connections in a few seconds", n)
			}
			if produced.Load() != 0 {
				t.Error("a message was sent")
			}
			if log.count("hidden") > 0 || log.count(c.why) == 0 {
				t.Errorf("the log has a secret, or not %q:\n%s", c.why, log.text.String())
			}
		})
	}
}

// refused publishes, subscribes and asks for a while in vain.
func refused(t *testing.T, s *Store, why string) {
	t.Helper()
	err := s.Ping(t.Context())
	if !errors.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), why) || strings.Contains(err.Error(), "hidden") {
		t.Errorf("Ping: %v; want %q", err, why)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	for _, ack := range []store.Ack{store.AckAll, store.AckLocal} {
		if err := s.Publish(ctx, "t", ack, text(0, "x")); !errors.Is(err, errs.Unavailable) {
			t.Errorf("Publish: %v", err)
		}
	}
	if f, err := s.Subscribe(ctx, store.Spec{Topic: "t", Group: "g"}); err == nil {
		if b, err := f.Poll(ctx, 100, nil); len(b.Messages) > 0 {
			t.Errorf("a member has messages, %v", err)
		}
		_ = f.Close(ctx)
	}
	<-ctx.Done() // as long as all of it tries
}

// A password and a certificate that were replaced hold for new connections; those that are there stay.
func TestLinkRotates(t *testing.T) {
	a := testkit.NewAuthority(t)
	secret := filepath.Join(t.TempDir(), "sasl")
	put := func(text string) {
		if err := os.WriteFile(secret, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("me:hidden")
	credentials, err := links.LoadCredentials(secret, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile := a.For("one", time.Time{})
	server := a.Server(loopback, time.Time{}, true)
	names := make(chan string, 1000)
	server.VerifyConnection = func(s tls.ConnectionState) error {
		select {
		case names <- s.PeerCertificates[0].Subject.CommonName:
		default:
		}
		return nil
	}
	c := secured(t, server)
	var user atomic.Pointer[string]
	c.ControlKey(int16(kmsg.SASLAuthenticate), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if first, ok := strings.CutPrefix(string(req.(*kmsg.SASLAuthenticateRequest).SASLAuthBytes), "n,,n="); ok {
			name, _, _ := strings.Cut(first, ",")
			user.Store(&name)
		}
		return nil, nil, false
	})
	s := open(t, Config{Brokers: c.ListenAddrs(), TLS: files(t, links.Files{CA: a.File, Cert: certFile, Key: keyFile}),
		SASL: &SASL{Mechanism: SASLScramSHA512, Credentials: credentials.Current}})
	works(t, s)
	seen := drain(names)
	if len(seen) == 0 || slices.Contains(seen, "two") || *user.Load() != "me" {
		t.Errorf("certificates of %q, user %q", seen, *user.Load())
	}
	a.Replace(certFile, keyFile, "two", time.Time{})
	put("you:hidden4")
	if err := s.Ping(t.Context()); err != nil {
		t.Errorf("a connection that was there: %v", err)
	}
	f := joined(t, s, "t", 2) // a client of its own
	defer f.Close(t.Context())
	eventually(t, "the new name is shown", func() bool { return *user.Load() == "you" })
	eventually(t, "the new certificate is shown", func() bool { return slices.Contains(drain(names), "two") })
}

func drain(names chan string) (all []string) {
	for {
		select {
		case n := <-names:
			all = append(all, n)
		default:
			return all
		}
	}
}

// A broker that ends while it shakes hands is one that restarts, not one that is configured wrongly: the client tries on.
func TestLinkHangsUp(t *testing.T) {
	ln, err := net.Listen("tcp", loopback+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_ = conn.(*net.TCPConn).CloseWrite() // an end, where Close with something unread would be a reset
			_, _ = io.Copy(io.Discard, conn)
			conn.Close()
		}
	}()
	s := open(t, Config{Brokers: []string{ln.Addr().String()}, TLS: files(t, links.Files{})})
	if err := s.Ping(t.Context()); err == nil || !strings.Contains(err.Error(), "TLS: the broker hung up") || errors.Is(err, io.EOF) || !isDial(err) {
		t.Errorf("Ping: %v", err)
	}
}

// What a broker answers to credentials that it does not take is told as it says it.
func TestLinkRefusalIsTold(t *testing.T) {
	c := secured(t, nil)
	c.ControlKey(int16(kmsg.SASLAuthenticate), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		resp := req.ResponseKind().(*kmsg.SASLAuthenticateResponse)
		resp.ErrorCode, resp.ErrorMessage = kerr.SaslAuthenticationFailed.Code, kmsg.StringPtr("invalid credentials")
		return resp, nil, true
	})
	var dials counting
	s := open(t, Config{Brokers: c.ListenAddrs(), SASL: as(SASLScramSHA512, "me", "hidden"), dial: dials.dial, SendTimeout: time.Second})
	refused(t, s, "SASL_AUTHENTICATION_FAILED")
	if n := dials.n.Load(); n > 100 {
		t.Errorf("%d connections in a few seconds", n)
	}
}

func TestLinkIsChecked(t *testing.T) {
	far, near := []string{loopback + ":9092", "kafka1:9092"}, []string{"localhost:9092", "[::1]:9092", "127.9.9.9:1"}
	for _, c := range []struct {
		cfg  Config
		want string
	}{
		{Config{Brokers: far, SASL: as(SASLPlain, "u", "p")}, "broker kafka1:9092: SASL PLAIN sends"},
		{Config{Brokers: near, SASL: as(SASLPlain, "u", "p")}, ""},
		{Config{Brokers: far, SASL: as(SASLPlain, "u", "p"), TLS: func() *tls.Config { return &tls.Config{MinVersion: tls.VersionTLS12} }}, ""},
		{Config{Brokers: far, SASL: as(SASLScramSHA256, "u", "p")}, ""},
		{Config{Brokers: far, SASL: as("gssapi", "u", "p")}, "none of plain"},
		{Config{Brokers: far, SASL: &SASL{Mechanism: SASLScramSHA512}}, "credentials"},
	} {
		err := c.cfg.Validate()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v; want %q", c.cfg, err, c.want)
		}
	}
}

// elsewhere is a connection to another machine.
type elsewhere struct{ net.Conn }

func (elsewhere) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 9092} }

// Brokers name others: a password is not handed to those that are not on this machine, though the first one was.
func TestPasswordInClearStaysHere(t *testing.T) {
	theirs, ours := net.Pipe()
	got := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(theirs)
		got <- b
	}()
	s := open(t, Config{Brokers: []string{loopback + ":1"}, SASL: as(SASLPlain, "me", "hidden"), dial: func(context.Context, string, string) (net.Conn, error) {
		return elsewhere{ours}, nil
	}})
	if err := s.Ping(t.Context()); !errors.Is(err, errInClear) {
		t.Errorf("Ping: %v", err)
	}
	if b := <-got; len(b) > 0 {
		t.Errorf("%q was sent", b)
	}
}

package kafka

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// The mechanisms of SASL, by which brokers are told who we are.
const (
	SASLPlain       = "plain" // the password as it is: over TLS only, or on this machine
	SASLScramSHA256 = "scram-sha-256"
	SASLScramSHA512 = "scram-sha-512"
)

// SASLMechanisms are those that there are.
func SASLMechanisms() []string { return []string{SASLPlain, SASLScramSHA256, SASLScramSHA512} }

// SASL says who we are.
type SASL struct {
	Mechanism   string
	Credentials func() (user, password string) // called for each connection, so that they may be replaced; concurrently
}

const dialTimeout = 5 * time.Second // of a connection with all of its handshake

var errInClear = errors.New("SASL PLAIN sends the password as it is, which without TLS anybody on the way can read: turn TLS on, or use scram-sha-512")

// check is nil where what is configured can be used.
func (a *SASL) check(overTLS bool, brokers []string) error {
	switch {
	case a == nil:
		return nil
	case !slices.Contains(SASLMechanisms(), a.Mechanism):
		return fmt.Errorf("SASL mechanism %q is none of %s, %s, %s", a.Mechanism, SASLPlain, SASLScramSHA256, SASLScramSHA512)
	case a.Credentials == nil:
		return errors.New("SASL needs credentials")
	case a.Mechanism != SASLPlain || overTLS:
		return nil
	}
	for _, b := range brokers {
		host, _, _ := net.SplitHostPort(b)
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return fmt.Errorf("broker %s: %w", b, errInClear)
		}
	}
	return nil
}

func (a *SASL) mechanism() sasl.Mechanism {
	credentials := func(context.Context) (scram.Auth, error) {
		user, password := a.Credentials()
		return scram.Auth{User: user, Pass: password}, nil
	}
	switch a.Mechanism {
	case SASLPlain:
		return plain.Plain(func(context.Context) (plain.Auth, error) {
			user, password := a.Credentials()
			return plain.Auth{User: user, Pass: password}, nil
		})
	case SASLScramSHA256:
		return scram.Sha256(credentials)
	default:
		return scram.Sha512(credentials)
	}
}

// linkOpts are the options of how brokers are connected to.
func (s *Store) linkOpts() []kgo.Opt {
	opts := []kgo.Opt{kgo.Dialer(s.dial)}
	if s.cfg.SASL != nil {
		opts = append(opts, kgo.SASL(s.cfg.SASL.mechanism()))
	}
	return opts
}

// dial connects to a broker. Whatever fails of it is a fault of dialing, by which publishes know that nothing was sent, and
// the client that it should wait before it tries again, and may try another broker.
func (s *Store) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	dial := s.cfg.dial
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	conn, err := dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	secured, err := s.secure(ctx, conn, addr)
	if err != nil {
		conn.Close()
		return nil, &net.OpError{Op: "dial", Net: network, Addr: conn.RemoteAddr(), Err: err}
	}
	return secured, nil
}

// secure shakes hands where there is TLS. Where there is none, it hands no password to who is not on this machine: brokers
// name others, which nobody has configured.
func (s *Store) secure(ctx context.Context, conn net.Conn, addr string) (net.Conn, error) {
	if s.cfg.TLS == nil {
		tcp, ok := conn.RemoteAddr().(*net.TCPAddr)
		if s.cfg.SASL != nil && s.cfg.SASL.Mechanism == SASLPlain && (!ok || !tcp.IP.IsLoopback()) {
			return nil, errInClear
		}
		return conn, nil
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	cfg := s.cfg.TLS().Clone()
	cfg.ServerName = host
	secured := tls.Client(conn, cfg)
	err = secured.HandshakeContext(ctx)
	switch {
	case errors.Is(err, io.EOF): // not wrapped: the client takes it for a fault of the configuration, and gives up what a broker that restarts would take
		return nil, errors.New("TLS: the broker hung up in the handshake")
	case err != nil:
		return nil, fmt.Errorf("TLS: %w", err)
	}
	return secured, nil
}

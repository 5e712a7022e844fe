package peer

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// The handshake, once per connection, before HTTP is spoken on it. Everything has a fixed length:
//
//	server: greeting, nonce s
//	client: greeting, nonce c, MAC of the client by its first secret, the same by its second
//	server: MAC of the server by the secret that it found, or nothing: it hangs up
//
// A MAC is HMAC-SHA-256(secret, label of the role, greeting, s, c). Both nonces are new, so that what was recorded is
// worth nothing later, and the label keeps a MAC of one side from being sent back as that of the other.
//
// While the secret is rotated, gateways hear of it one after the other: one knows (new, old) and another still (old) alone.
// So the client shows what it knows, and one common secret is enough.
const (
	greeting    = "kateway-peer/1\n"
	labelClient = "kateway peer client\n"
	labelServer = "kateway peer server\n"
	nonceSize   = 32
	macSize     = sha256.Size
	maxSecrets  = 2 // the current and the previous one; further ones do not count
)

// MinSecret is the length in bytes from which on a secret counts as one. Gateways make theirs of 32 random bytes.
const MinSecret = 16

type (
	nonce [nonceSize]byte
	mac   [macSize]byte
)

// Why a handshake fails.
var (
	errNoSecret = errors.New("there is no cluster secret yet")
	errNotPeer  = errors.New("the other side is no gateway, or one of another version")
	errWrongMAC = errors.New("the other side does not know the cluster's secret")
	errHungUp   = errors.New("the other side hung up: it has another cluster secret, none yet, or is stopping")
)

// welcome is the server's side of the handshake. Nil says that the other side knows one of the secrets. It reads no byte
// of what comes after. The time limit is the caller's.
func welcome(rw io.ReadWriter, secrets [][]byte) error {
	secrets = usable(secrets)
	if len(secrets) == 0 {
		return errNoSecret
	}
	var s, c nonce
	fill(&s)
	if _, err := rw.Write(slices.Concat([]byte(greeting), s[:])); err != nil {
		return fmt.Errorf("greeting: %w", err)
	}
	if err := readGreeting(rw); err != nil {
		return err
	}
	var shown [maxSecrets]mac
	for _, part := range [][]byte{c[:], shown[0][:], shown[1][:]} {
		if _, err := io.ReadFull(rw, part); err != nil {
			return fmt.Errorf("reading the answer: %w", err)
		}
	}
	found := match(secrets, shown[:], labelClient, s, c)
	if found < 0 {
		return errWrongMAC
	}
	own := sum(secrets[found], labelServer, s, c)
	if _, err := rw.Write(own[:]); err != nil {
		return fmt.Errorf("answering: %w", err)
	}
	return nil
}

// greet is the client's side of the handshake. Nil says that the other side knows one of the secrets, and that we may
// speak. It reads no byte of what comes after. The time limit is the caller's.
func greet(rw io.ReadWriter, secrets [][]byte) error {
	secrets = usable(secrets)
	if len(secrets) == 0 {
		return errNoSecret
	}
	switch err := readGreeting(rw); {
	case errors.Is(err, io.EOF):
		return errHungUp
	case err != nil:
		return err
	}
	var s, c nonce
	if _, err := io.ReadFull(rw, s[:]); err != nil {
		return fmt.Errorf("reading the nonce: %w", err)
	}
	fill(&c)
	first, last := sum(secrets[0], labelClient, s, c), sum(secrets[len(secrets)-1], labelClient, s, c)
	if _, err := rw.Write(slices.Concat([]byte(greeting), c[:], first[:], last[:])); err != nil {
		return fmt.Errorf("answering: %w", err)
	}
	var shown [1]mac
	switch n, err := io.ReadFull(rw, shown[0][:]); {
	case n == 0 && errors.Is(err, io.EOF):
		return errHungUp
	case err != nil:
		return fmt.Errorf("reading the proof: %w", err)
	}
	if match(secrets, shown[:], labelServer, s, c) < 0 {
		return errWrongMAC
	}
	return nil
}

// readGreeting refuses at the first byte that differs, so that a client of something else isn't kept waiting for the
// rest of a handshake that it will never send.
func readGreeting(r io.Reader) error {
	var got [len(greeting)]byte
	for n := 0; n < len(got); {
		m, err := r.Read(got[n:])
		n += m
		switch {
		case !strings.HasPrefix(greeting, string(got[:n])):
			return fmt.Errorf("it said %q: %w", bytes.TrimSpace(got[:n]), errNotPeer)
		case n < len(got) && err != nil:
			return fmt.Errorf("reading the greeting: %w", err)
		}
	}
	return nil
}

// usable leaves out what is too short to be a secret, above all the empty one, by which everybody could make MACs.
func usable(secrets [][]byte) [][]byte {
	secrets = slices.DeleteFunc(slices.Clone(secrets), func(s []byte) bool { return len(s) < MinSecret })
	return secrets[:min(len(secrets), maxSecrets)]
}

// fill makes a nonce. crypto/rand does not fail.
func fill(n *nonce) { _, _ = rand.Read(n[:]) }

func sum(secret []byte, label string, s, c nonce) (m mac) {
	h := hmac.New(sha256.New, secret)
	for _, part := range [][]byte{[]byte(label), []byte(greeting), s[:], c[:]} {
		_, _ = h.Write(part) // a hash does not fail
	}
	h.Sum(m[:0])
	return m
}

// match is the index of the secret by which one of the MACs was made, -1 where there is none. The time it takes does not
// tell how much of a MAC was right.
func match(secrets [][]byte, shown []mac, label string, s, c nonce) int {
	found := -1
	for i, secret := range secrets {
		want := sum(secret, label, s, c)
		for _, m := range shown {
			if hmac.Equal(want[:], m[:]) {
				found = i
			}
		}
	}
	return found
}

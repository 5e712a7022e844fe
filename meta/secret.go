package meta

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"strings"
)

// NewSecret makes a key. The secret, "<id>.<43 characters>" with 256 random bits, is for its owner and shown once; the hash
// is what is kept.
func NewSecret() (id, secret, hash string) {
	var name [8]byte
	var key [32]byte
	// The random source does not fail: the process ends before.
	_, _ = rand.Read(name[:])
	_, _ = rand.Read(key[:])
	id = hex.EncodeToString(name[:])
	secret = id + "." + base64.RawURLEncoding.EncodeToString(key[:])
	return id, secret, HashSecret(secret)
}

// HashSecret is what is kept of a secret. One round of SHA-256 is enough for 256 random bits; it would not be for a password.
func HashSecret(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// SecretID is the id of the key that the secret claims to be; "" where it has not the form of one.
func SecretID(secret string) string {
	id, key, ok := strings.Cut(secret, ".")
	if !ok || key == "" || len(id) > maxName {
		return ""
	}
	return id
}

// CheckSecret reports whether the secret is the one of the hash. How long it takes does not tell how much of it is right. Every
// request that shows a key asks, so that nothing is allocated.
func CheckSecret(secret, hash string) bool {
	var given, kept [2 * sha256.Size]byte
	if len(hash) != len(kept) {
		return false
	}
	copy(kept[:], hash)
	var text [256]byte
	sum := sha256.Sum256(append(text[:0], secret...))
	hex.Encode(given[:], sum[:])
	return subtle.ConstantTimeCompare(given[:], kept[:]) == 1
}

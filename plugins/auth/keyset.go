package auth

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/MicahParks/jwkset"
)

// Bounds of an issuer's keys.
const (
	maxKeys      = 100
	minRSA       = 2048 // bits
	minSharedKey = 32   // bytes
)

// keySet is the keys of one issuer. It does not change.
type keySet struct {
	keys map[string]verifyKey // by kid
	text [sha256.Size]byte    // the hash of what they were read from
}

// verifyKey is one of them.
type verifyKey struct {
	alg    string // the only algorithm that it is for; "": any that goes with it
	key    any    // *rsa.PublicKey, *ecdsa.PublicKey, ed25519.PublicKey, or the bytes of a secret
	finger [sha256.Size]byte
}

// find is the key of the name; the only one where the token names none.
func (s *keySet) find(kid string) (verifyKey, bool) {
	k, ok := s.keys[kid]
	if !ok && kid == "" && len(s.keys) == 1 {
		for _, k = range s.keys {
			ok = true
		}
	}
	return k, ok
}

// fits reports whether a token of this algorithm may be verified with it.
func (k *verifyKey) fits(alg string) bool {
	if k.alg != "" && k.alg != alg {
		return false
	}
	switch key := k.key.(type) {
	case *rsa.PublicKey:
		return strings.HasPrefix(alg, "RS") || strings.HasPrefix(alg, "PS")
	case *ecdsa.PublicKey:
		return alg == map[int]string{256: "ES256", 384: "ES384", 521: "ES512"}[key.Params().BitSize]
	case ed25519.PublicKey:
		return alg == "EdDSA"
	case []byte:
		return strings.HasPrefix(alg, "HS")
	}
	return false
}

// sharedKey is the set of a secret. A text editor's line end is not part of it.
func sharedKey(text []byte) (*keySet, error) {
	secret := strings.TrimRight(string(text), "\r\n")
	if len(secret) < minSharedKey {
		return nil, fmt.Errorf("the secret has %d bytes, and less than %d can be guessed", len(secret), minSharedKey)
	}
	sum := sha256.Sum256([]byte(secret))
	return &keySet{keys: map[string]verifyKey{"": {key: []byte(secret), finger: sum}}, text: sha256.Sum256(text)}, nil
}

// parseKeySet reads a JWKS (RFC 7517). Keys that are not for signatures, of sorts that we do not know, or too weak, are left
// out; a set without a key that can be used is an error.
func parseKeySet(text []byte) (*keySet, error) {
	var doc jwkset.JWKSMarshal
	if err := json.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("it is no JWKS: %w", err)
	}
	if len(doc.Keys) > maxKeys {
		return nil, fmt.Errorf("it has %d keys, %d at most", len(doc.Keys), maxKeys)
	}
	set := &keySet{keys: map[string]verifyKey{}, text: sha256.Sum256(text)}
	var faults []error
	for _, m := range doc.Keys {
		k, err := publicKey(m)
		if err != nil {
			faults = append(faults, fmt.Errorf("key %.64q: %w", m.KID, err))
			continue
		}
		if _, twice := set.keys[m.KID]; twice {
			return nil, fmt.Errorf("it has two keys %.64q", m.KID)
		}
		set.keys[m.KID] = k
	}
	if len(set.keys) == 0 {
		return nil, errors.Join(append([]error{errors.New("it has no key that can be used")}, faults...)...)
	}
	return set, nil
}

// publicKey reads one key. Certificates and addresses in it are not looked at.
func publicKey(m jwkset.JWKMarshal) (k verifyKey, err error) {
	if m.USE != "" && m.USE != jwkset.UseSig {
		return k, errors.New("it is not for signatures")
	}
	m.X5C, m.X5T, m.X5TS256, m.X5U, m.KEYOPS = nil, "", "", "", nil
	m.D, m.P, m.Q, m.DP, m.DQ, m.QI, m.OTH = "", "", "", "", "", "", nil // nothing that is private is of any use here
	jwk, err := jwkset.NewJWKFromMarshal(m, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
	if err != nil {
		return k, err
	}
	k.alg, k.key = m.ALG.String(), jwk.Key()
	switch key := k.key.(type) {
	case *rsa.PublicKey:
		if key.N.BitLen() < minRSA {
			return k, fmt.Errorf("an RSA key of %d bits, %d at least", key.N.BitLen(), minRSA)
		}
	case *ecdsa.PublicKey, ed25519.PublicKey:
	default:
		return k, fmt.Errorf("a key of type %s can't verify here", m.KTY)
	}
	text, err := json.Marshal(m)
	if err != nil {
		return k, err
	}
	k.finger = sha256.Sum256(text)
	return k, nil
}

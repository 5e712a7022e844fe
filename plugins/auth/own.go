package auth

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/plugins"
)

var _ plugins.Minter = (*Plugin)(nil)

// ownType is the header typ of the tokens that gateways make, so that none is taken for another's.
const ownType = "kateway"

// newOwn is the gateways themselves as an issuer.
func newOwn(secrets func() [][]byte) *issuer {
	var known atomic.Pointer[ownKeys]
	return &issuer{
		Issuer:    Issuer{Issuer: tokenIssuer, Algorithms: []string{"HS256"}, Types: []string{ownType}},
		validator: jwt.NewValidator(jwt.WithExpirationRequired(), jwt.WithIssuer(tokenIssuer)),
		claims:    (*issuer).readOwn,
		fixed: func() *keySet {
			now, k := secrets(), known.Load()
			if k == nil || !slices.EqualFunc(k.of, now, bytes.Equal) {
				k = newOwnKeys(now)
				known.Store(k)
			}
			return k.set
		},
	}
}

// ownKeys are the keys that are made of the gateways' secrets.
type ownKeys struct {
	of  [][]byte
	set *keySet // nil while there is no secret
}

func newOwnKeys(secrets [][]byte) *ownKeys {
	k := &ownKeys{of: secrets}
	for _, s := range secrets {
		if k.set == nil {
			k.set = &keySet{keys: map[string]verifyKey{}}
		}
		k.set.keys[ownKid(s)] = verifyKey{alg: "HS256", key: s, finger: sha256.Sum256(s)}
	}
	return k
}

// ownKid names a secret without telling anything of it.
func ownKid(secret []byte) string {
	sum := sha256.Sum256(append([]byte("kid "), secret...))
	return hex.EncodeToString(sum[:4])
}

// Mint makes a token that is good for what the call wants and nothing else, for so long, but not longer than what the call
// has shown. It dies with the key that it was asked for with.
func (p *Plugin) Mint(_ context.Context, c *plugins.Call, ttl time.Duration) (string, time.Time, error) {
	secrets := p.secrets()
	if len(secrets) == 0 {
		return "", time.Time{}, fmt.Errorf("the gateways' secret has not been read yet; try again soon: %w", errs.Unavailable)
	}
	now := time.Now()
	until := now.Add(ttl).Truncate(time.Second)
	if !c.Expires.IsZero() && c.Expires.Before(until) {
		until = c.Expires.Truncate(time.Second)
	}
	if !now.Before(until) { // what was shown counts for the leeway alone
		return "", time.Time{}, errWho
	}
	owner := c.Owner
	if owner == "" {
		owner = c.App
	}
	claims := jwt.MapClaims{
		"iss": tokenIssuer, "sub": c.App, "op": opOf(c.Op), "topic": path(meta.Topic{App: owner, Name: c.Topic, Ver: c.Ver}),
		"iat": now.Unix(), "exp": until.Unix(),
	}
	if c.Group != "" {
		claims["group"] = c.Group
	}
	if c.KeyID != "" {
		claims["key"] = c.KeyID
	}
	tok := jwt.NewWithClaims(jwt.SigningMethodHS256, claims)
	tok.Header["typ"], tok.Header["kid"] = ownType, ownKid(secrets[0])
	s, err := tok.SignedString(secrets[0])
	if err != nil {
		return "", time.Time{}, fmt.Errorf("making a token: %w", err)
	}
	return s, until, nil
}

// readOwn takes what a token of the gateways says.
func (*issuer) readOwn(claims jwt.MapClaims, found *token) error {
	text := map[string]string{}
	for _, name := range []string{"sub", "op", "topic", "group", "key"} {
		s, ok := claims[name].(string)
		if _, given := claims[name]; given && !ok {
			return fmt.Errorf("its %s is no text: %w", name, errToken)
		}
		text[name] = s
	}
	if text["sub"] == "" || text["op"] == "" || text["topic"] == "" {
		return fmt.Errorf("it lacks what it is for: %w", errToken)
	}
	found.app, found.keyID = text["sub"], text["key"]
	found.only = &limits{ops: []string{text["op"]}, topics: []string{text["topic"]}, groups: []string{text["group"]}}
	return nil
}

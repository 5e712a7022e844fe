package auth

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/kateway/kateway/plugins"
)

// Bounds of tokens.
const (
	maxToken = 8 << 10 // bytes; a longer one is not looked at
	maxNames = 100     // topics or groups that a token names
)

// errToken is any fault of a token; nobody but the log of debugging is told which.
var (
	errToken  = errors.New("the token is not good")
	errNoKeys = errors.New("the issuer's keys could not be read yet")
)

// refused are the fields of a header that have the reader take keys, or what is signed, from elsewhere. Whoever makes a token
// must not choose by what it is verified.
func refused() []string {
	return []string{"jku", "jwk", "x5u", "x5c", "crit", "zip", "enc", "b64"}
}

// token is a token that was found good. It does not change.
type token struct {
	identity

	issuer *issuer
	kid    string
	finger [sha256.Size]byte // of the key that it was verified with
}

// over reports whether its time is.
func (t *token) over(now time.Time) bool { return !now.Before(t.expires.Add(t.leeway)) }

// tokens verifies tokens, and makes those of the gateways' own. Its methods may be called concurrently.
type tokens struct {
	issuers map[string]*issuer // by their names; read only
	own     *issuer            // the gateways; one of them
	parser  *jwt.Parser
	cache   cache
	log     *slog.Logger
}

// newTokens reads the files that the options name. changed is called when an issuer's keys are others.
func newTokens(o *Options, e plugins.Env, changed func()) (*tokens, error) {
	t := &tokens{issuers: map[string]*issuer{}, log: e.Log}
	t.parser = jwt.NewParser(jwt.WithoutClaimsValidation(), jwt.WithValidMethods(append(public(), shared()...)), jwt.WithStrictDecoding())
	t.own = newOwn(e.Secrets)
	t.issuers[tokenIssuer] = t.own
	var faults []error
	for i := range o.JWT {
		is, err := newIssuer(&o.JWT[i], o.Leeway, e.Log, changed)
		if err != nil {
			faults = append(faults, fmt.Errorf("issuer %s: %w", o.JWT[i].Issuer, err))
			continue
		}
		t.issuers[o.JWT[i].Issuer] = is
	}
	return t, errors.Join(faults...)
}

// follow keeps the issuers' keys up to date until ctx ends; what it answers waits for its end.
func (t *tokens) follow(ctx context.Context) (wait func()) {
	var wg sync.WaitGroup
	for _, is := range t.issuers {
		if is.source != nil {
			wg.Go(func() { is.source.follow(ctx) })
		}
	}
	return wg.Wait
}

// looksLikeToken reports whether a secret has the form of a token rather than of a key.
func looksLikeToken(s string) bool {
	first := strings.IndexByte(s, '.')
	return first > 0 && strings.IndexByte(s[first+1:], '.') >= 0
}

// identify finds for whom the token speaks. What it says first is believed for as long as the token and the key that it was
// verified with are good.
func (t *tokens) identify(shown *credentials) (identity, verdict) {
	s := shown.secret
	if len(s) > maxToken || strings.Count(s, ".") != 2 {
		return identity{}, malformed
	}
	id := sha256.Sum256([]byte(s))
	if known := t.cache.get(id); known != nil && t.still(known) && (!shown.token || known.issuer == t.own) {
		return known.identity, passed
	}
	found, err := t.verify(s)
	switch {
	case errors.Is(err, errNoKeys):
		return identity{}, unready
	case err != nil && errors.Is(err, jwt.ErrTokenExpired):
		return identity{}, expired
	case err != nil:
		t.log.Debug("a token is refused", "error", clean(err))
		return identity{}, badToken
	case shown.token && found.issuer != t.own:
		return identity{}, malformed // only what lives short may stand in a URL
	}
	t.cache.put(id, found)
	return found.identity, passed
}

// still reports whether a token that was verified would be verified again, its time apart.
func (t *tokens) still(tok *token) bool {
	set := tok.issuer.set()
	if set == nil {
		return false
	}
	k, ok := set.find(tok.kid)
	return ok && k.finger == tok.finger
}

// verify looks at everything but whether the app exists.
func (t *tokens) verify(s string) (*token, error) {
	found := &token{}
	claims := jwt.MapClaims{}
	_, err := t.parser.ParseWithClaims(s, claims, func(tok *jwt.Token) (any, error) {
		name, ok := claims["iss"].(string)
		if found.issuer = t.issuers[name]; !ok || found.issuer == nil {
			return nil, fmt.Errorf("its issuer is none of ours: %w", errToken)
		}
		return found.issuer.key(tok, found)
	})
	if err != nil {
		return nil, err
	}
	if err := found.issuer.read(claims, found); err != nil {
		return nil, err
	}
	found.token = found
	return found, nil
}

// issuer makes tokens.
type issuer struct {
	Issuer

	validator *jwt.Validator
	leeway    time.Duration
	source    *source        // of its keys; nil for the gateways' own
	fixed     func() *keySet // of the gateways' own
	claims    func(*issuer, jwt.MapClaims, *token) error
}

func newIssuer(o *Issuer, leeway time.Duration, log *slog.Logger, changed func()) (*issuer, error) {
	is := &issuer{Issuer: *o, leeway: leeway, claims: (*issuer).readForeign}
	is.validator = jwt.NewValidator(jwt.WithExpirationRequired(), jwt.WithIssuer(o.Issuer), jwt.WithAudience(o.Audience...), jwt.WithLeeway(leeway), jwt.WithIssuedAt())
	var err error
	is.source, err = newSource(o, log, changed)
	return is, err
}

// set is its keys; nil while nothing is known of them.
func (is *issuer) set() *keySet {
	if is.source != nil {
		return is.source.keys()
	}
	return is.fixed()
}

// key is what the token is to be verified with. Of what the token says of itself only alg and kid count, and both are only
// compared with what we know.
func (is *issuer) key(tok *jwt.Token, found *token) (any, error) {
	for _, name := range refused() {
		if _, ok := tok.Header[name]; ok {
			return nil, fmt.Errorf("its header has %s: %w", name, errToken)
		}
	}
	typ, _ := tok.Header["typ"].(string)
	if !slices.ContainsFunc(is.Types, func(t string) bool { return strings.EqualFold(t, typ) }) {
		return nil, fmt.Errorf("its typ is %.64q: %w", typ, errToken)
	}
	alg := tok.Method.Alg()
	if !slices.Contains(is.Algorithms, alg) {
		return nil, fmt.Errorf("it is signed with %s: %w", alg, errToken)
	}
	kid, isString := tok.Header["kid"].(string)
	if _, given := tok.Header["kid"]; given && !isString {
		return nil, fmt.Errorf("its kid is no text: %w", errToken)
	}
	set := is.set()
	if set == nil {
		return nil, errNoKeys
	}
	k, ok := set.find(kid)
	if !ok {
		is.source.missing()
		return nil, fmt.Errorf("there is no key %.64q: %w", kid, errToken)
	}
	if !k.fits(alg) {
		return nil, fmt.Errorf("key %.64q is not for %s: %w", kid, alg, errToken)
	}
	found.kid, found.finger = kid, k.finger
	return k.key, nil
}

// read takes what the token says.
func (is *issuer) read(claims jwt.MapClaims, found *token) error {
	if err := is.validator.Validate(claims); err != nil {
		return err
	}
	exp, err := claims.GetExpirationTime()
	if err != nil || exp == nil {
		return fmt.Errorf("it has no exp: %w", errToken)
	}
	found.expires, found.leeway = exp.Time, is.leeway
	return is.claims(is, claims, found)
}

// readForeign takes what another's token says of app, ops, topics and groups.
func (is *issuer) readForeign(claims jwt.MapClaims, found *token) error {
	app, ok := claims[is.App].(string)
	if !ok || app == "" {
		return fmt.Errorf("its %s names no app: %w", is.App, errToken)
	}
	found.app = app
	if is.Ops == "" && is.Topics == "" && is.Groups == "" {
		return nil
	}
	l := &limits{ops: []string{opPub, opSub}}
	for _, c := range []struct {
		claim string
		into  *[]string
	}{{is.Ops, &l.ops}, {is.Topics, &l.topics}, {is.Groups, &l.groups}} {
		if c.claim == "" {
			continue
		}
		list, ok := namesIn(claims[c.claim])
		if !ok {
			return fmt.Errorf("its %s is no list of at most %d names: %w", c.claim, maxNames, errToken)
		}
		*c.into = list
	}
	found.only = l
	return nil
}

// namesIn are the names in a claim: a list, or a text with spaces between them as OAuth has scopes. A claim that is not there
// has none.
func namesIn(claim any) (list []string, ok bool) {
	list = []string{} // nil would be all
	switch v := claim.(type) {
	case nil:
	case string:
		list = append(list, strings.Fields(v)...)
	case []any:
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return nil, false
			}
			list = append(list, s)
		}
	default:
		return nil, false
	}
	return list, len(list) <= maxNames
}

// clean is an error for the log: one line, and not longer than it needs to be. What a token says is not in it, but for names.
func clean(err error) string {
	s := err.Error()
	if len(s) > 256 {
		s = s[:256]
	}
	return s
}

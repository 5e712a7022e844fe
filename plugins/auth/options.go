package auth

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/kateway/kateway/plugins"
)

// Bounds of the options.
const (
	maxLeeway    = time.Minute
	minRefresh   = 10 * time.Second
	maxRefresh   = 24 * time.Hour
	maxIssuers   = 100
	tokenIssuer  = "kateway" // of the tokens that gateways make
	defaultClaim = "sub"
)

// Options are what the configuration says of this plugin.
type Options struct {
	// Leeway is by how much clocks may differ.
	Leeway time.Duration `yaml:"leeway"`
	// JWT are the issuers whose tokens are taken.
	JWT []Issuer `yaml:"jwt"`
	// Certificates are the names in certificates of clients that speak for apps.
	Certificates []Certificate `yaml:"certificates"`
}

// Issuer makes tokens that speak for apps.
type Issuer struct {
	Issuer     string        `yaml:"issuer"`      // the claim iss, exactly
	Audience   []string      `yaml:"audience"`    // one of them must be in the claim aud
	Algorithms []string      `yaml:"algorithms"`  // that it signs with
	JWKS       string        `yaml:"jwks"`        // a file, or an https URL: its public keys
	SecretFile string        `yaml:"secret_file"` // the secret of HS algorithms, 32 bytes or more
	Refresh    time.Duration `yaml:"refresh"`     // how often the URL is asked
	Types      []string      `yaml:"types"`       // of the header typ
	App        string        `yaml:"app_claim"`   // says for which app the token speaks
	Ops        string        `yaml:"ops_claim"`   // says what it may: pub, sub; "": both
	Topics     string        `yaml:"topics_claim"`
	Groups     string        `yaml:"groups_claim"`
}

// shared and public are the algorithms that there are: by a secret, and by a pair of keys.
func shared() []string { return []string{"HS256", "HS384", "HS512"} }
func public() []string {
	return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
}

// readOptions reads and checks them. Every fault is told.
func readOptions(o plugins.Options) (*Options, error) {
	opts := &Options{Leeway: 30 * time.Second}
	if err := o.Into(opts); err != nil {
		return nil, err
	}
	var faults []error
	unless := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	unless(opts.Leeway >= 0 && opts.Leeway <= maxLeeway, "leeway: %v is not between 0s and %v", opts.Leeway, maxLeeway)
	unless(len(opts.JWT) <= maxIssuers, "jwt: %d issuers are named, %d at most", len(opts.JWT), maxIssuers)
	seen := map[string]bool{}
	for i := range opts.JWT {
		is := &opts.JWT[i]
		is.defaults()
		is.check(func(ok bool, format string, args ...any) {
			unless(ok, "jwt, issuer %q: "+format, append([]any{is.Issuer}, args...)...)
		})
		unless(!seen[is.Issuer], "jwt: issuer %q is named twice", is.Issuer)
		seen[is.Issuer] = true
	}
	checkCertificates(opts.Certificates, unless)
	return opts, errors.Join(faults...)
}

func (is *Issuer) defaults() {
	if is.App == "" {
		is.App = defaultClaim
	}
	if is.Types == nil {
		is.Types = []string{"JWT", "at+jwt"}
	}
	if is.Refresh == 0 {
		is.Refresh = 10 * time.Minute
	}
}

func (is *Issuer) check(unless func(ok bool, format string, args ...any)) {
	unless(is.Issuer != "" && is.Issuer != tokenIssuer, "the issuer must be named as in its tokens, and not be %s", tokenIssuer)
	unless(len(is.Audience) > 0 && !slices.Contains(is.Audience, ""), "audience: name what its tokens for this gateway have as aud")
	unless(len(is.Algorithms) > 0, "algorithms: name those that it signs with, as [RS256]")
	for _, alg := range is.Algorithms {
		known := slices.Contains(shared(), alg) || slices.Contains(public(), alg)
		unless(known, "algorithms: %q is none of %s", alg, strings.Join(append(public(), shared()...), ", "))
		unless(!known || slices.Contains(shared(), alg) == (is.SecretFile != ""), "algorithms: %s does not go with %s", alg, map[bool]string{true: "secret_file", false: "jwks"}[is.SecretFile != ""])
	}
	unless((is.JWKS == "") != (is.SecretFile == ""), "give either jwks or secret_file")
	unless(is.Refresh >= minRefresh && is.Refresh <= maxRefresh, "refresh: %v is not between %v and %v", is.Refresh, minRefresh, maxRefresh)
	if strings.Contains(is.JWKS, "://") {
		unless(goodURL(is.JWKS), "jwks: %q must be an https URL without user and fragment, or http on loopback", is.JWKS)
	}
}

// goodURL reports whether keys may be fetched from there: so that nobody on the way can change them.
func goodURL(s string) bool {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" {
		return false
	}
	return u.Scheme == "https" || u.Scheme == "http" && isLoopback(u.Hostname())
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback() || host == "localhost"
}

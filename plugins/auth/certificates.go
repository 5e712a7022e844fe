package auth

import (
	"crypto/tls"
	"fmt"
	"slices"
	"strings"

	"github.com/kateway/kateway/meta"
)

// maxCertificates is how many names of certificates are mapped at most.
const maxCertificates = 10_000

// Certificate maps a name in the certificates of clients to an app.
type Certificate struct {
	SAN    string   `yaml:"san"` // dns:, uri:, email: or ip: with the subject alternative name, exactly
	App    string   `yaml:"app"`
	Ops    []string `yaml:"ops"`    // pub, sub; none: both
	Topics []string `yaml:"topics"` // as <app>/<topic>/<version>; none: all that the app may
	Groups []string `yaml:"groups"` // none: all
}

// The kinds of names.
const (
	sanDNS   = "dns:"
	sanURI   = "uri:"
	sanEmail = "email:"
	sanIP    = "ip:"
)

func (c *Certificate) check(unless func(ok bool, format string, args ...any)) {
	known := slices.ContainsFunc([]string{sanDNS, sanURI, sanEmail, sanIP}, func(kind string) bool {
		return strings.HasPrefix(c.SAN, kind) && len(c.SAN) > len(kind)
	})
	unless(known, "san: write %sname, %surl, %saddress or %saddress", sanDNS, sanURI, sanEmail, sanIP)
	unless(!strings.Contains(c.SAN, "*"), "san: it is compared as it is; there are no patterns")
	err := meta.CheckApp(c.App)
	unless(err == nil, "app: %v", err)
	for _, op := range c.Ops {
		unless(op == opPub || op == opSub, "ops: %q is neither %s nor %s", op, opPub, opSub)
	}
	for _, t := range c.Topics {
		unless(strings.Count(t, "/") == 2, "topics: %q must be <app>/<topic>/<version>", t)
	}
}

// subjects are the mapped names.
type subjects map[string]*subject

// subject is for whom a certificate with the name speaks.
type subject struct {
	app  string
	only *limits // nil: whatever the app may
}

func newSubjects(list []Certificate) subjects {
	s := subjects{}
	for i := range list {
		c := &list[i]
		to := &subject{app: c.App}
		if c.Ops != nil || c.Topics != nil || c.Groups != nil {
			to.only = &limits{ops: c.Ops, topics: c.Topics, groups: c.Groups}
			if c.Ops == nil {
				to.only.ops = []string{opPub, opSub}
			}
		}
		s[c.SAN] = to
	}
	return s
}

// identify finds for whom the client's certificate speaks, whose chain was verified when the connection was made. Its common
// name is not looked at. found is false where it has no name that is mapped; one whose names speak for several is malformed.
func (s subjects) identify(state *tls.ConnectionState) (who identity, v verdict, found bool) {
	if len(s) == 0 || state == nil || len(state.VerifiedChains) == 0 {
		return who, missing, false
	}
	leaf := state.VerifiedChains[0][0]
	var to *subject
	several := false
	look := func(name string) {
		if m := s[name]; m != nil {
			several = several || to != nil && to != m
			to = m
		}
	}
	for _, n := range leaf.DNSNames {
		look(sanDNS + n)
	}
	for _, u := range leaf.URIs {
		look(sanURI + u.String())
	}
	for _, e := range leaf.EmailAddresses {
		look(sanEmail + e)
	}
	for _, ip := range leaf.IPAddresses {
		look(sanIP + ip.String())
	}
	switch {
	case to == nil:
		return who, missing, false
	case several:
		return who, malformed, true
	}
	return identity{app: to.app, expires: leaf.NotAfter, only: to.only}, passed, true
}

// checkCertificates checks the mapped names.
func checkCertificates(list []Certificate, unless func(ok bool, format string, args ...any)) {
	unless(len(list) <= maxCertificates, "certificates: %d are mapped, %d at most", len(list), maxCertificates)
	seen := map[string]bool{}
	for i := range list {
		c := &list[i]
		c.check(func(ok bool, format string, args ...any) {
			unless(ok, "certificates, %s: %s", c.SAN, fmt.Sprintf(format, args...))
		})
		unless(!seen[c.SAN], "certificates: %s is named twice", c.SAN)
		seen[c.SAN] = true
	}
}

package auth

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/plugins"
)

// credentials is what a request shows.
type credentials struct {
	given  bool      // there is something, good or not
	half   bool      // a key, and not whose
	token  bool      // it came by access_token: nothing but a token of the gateways' own counts
	secret string    // "" where it can't be one
	apps   [2]string // whom it claims to be: by Appid, by Basic; "" = does not say
}

// read takes the credentials from the headers. Kind InvalidParam where they say two things at once.
func read(c *plugins.Call) (credentials, error) {
	keyHeader := "Subkey"
	if c.Op == plugins.Publish {
		keyHeader = "Pubkey"
	}
	app, err := only(c.Header, "Appid")
	if err != nil {
		return credentials{}, err
	}
	authorization, err := only(c.Header, "Authorization")
	if err != nil {
		return credentials{}, err
	}
	key, err := only(c.Header, keyHeader)
	if err != nil {
		return credentials{}, err
	}
	shown := credentials{apps: [2]string{app, ""}}
	switch {
	case key != "" && authorization != "":
		return credentials{}, fmt.Errorf("give either the header Authorization or %s: %w", keyHeader, errs.InvalidParam)
	case authorization != "":
		shown.given = true
		shown.authorization(authorization)
	case key != "" && app != "":
		shown.given, shown.secret = true, key
	case key != "":
		shown.half = true
	}
	return shown, nil
}

// authorization reads the value of an Authorization header (RFC 9110, 11.4). A scheme that is not known and what can't
// be decoded leave the secret empty.
func (s *credentials) authorization(value string) {
	scheme, rest, _ := strings.Cut(value, " ")
	rest = strings.TrimLeft(rest, " ")
	switch {
	case strings.EqualFold(scheme, "Bearer"):
		s.secret = rest
	case strings.EqualFold(scheme, "Basic"):
		pair, err := base64.StdEncoding.DecodeString(rest)
		if err != nil {
			return
		}
		if app, key, ok := strings.Cut(string(pair), ":"); ok && app != "" {
			s.apps[1], s.secret = app, key
		}
	case scheme == plugins.AccessToken:
		s.token, s.secret = true, rest
	}
}

// claimsOther reports whether the request says to come from another app.
func (s *credentials) claimsOther(app string) bool {
	for _, claim := range s.apps {
		if claim != "" && claim != app {
			return true
		}
	}
	return false
}

// only is the header's only value, "" where there is none. The name is in its canonical form.
func only(h http.Header, name string) (string, error) {
	switch v := h[name]; len(v) {
	case 0:
		return "", nil
	case 1:
		return v[0], nil
	default:
		return "", fmt.Errorf("header %s is given %d times: %w", name, len(v), errs.InvalidParam)
	}
}

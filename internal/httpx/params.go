package httpx

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kateway/kateway/internal/errs"
)

// Query is a request's query, checked: no parameter twice, none that the route does not know.
type Query struct{ v url.Values }

// ParseQuery checks the query against the names that the route knows. Kind InvalidParam.
func ParseQuery(r *http.Request, known ...string) (Query, error) {
	return ParseQueryLists(r, nil, known...)
}

// ParseQueryLists is ParseQuery where some parameters may be given several times.
func ParseQueryLists(r *http.Request, lists []string, known ...string) (Query, error) {
	if r.URL.RawQuery == "" {
		return Query{}, nil
	}
	v, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return Query{}, fmt.Errorf("query: %w: %w", err, errs.InvalidParam)
	}
	for name, values := range v {
		switch {
		case slices.Contains(lists, name):
		case !slices.Contains(known, name):
			return Query{}, fmt.Errorf("unknown parameter %q; there are %s: %w", name, strings.Join(append(slices.Clone(lists), known...), ", "), errs.InvalidParam)
		case len(values) > 1:
			return Query{}, fmt.Errorf("parameter %q is given %d times: %w", name, len(values), errs.InvalidParam)
		}
	}
	return Query{v}, nil
}

// Has reports whether the parameter is given, empty or not.
func (q Query) Has(name string) bool { return q.v.Has(name) }

// Get is the parameter's value, "" where it is not given.
func (q Query) Get(name string) string { return q.v.Get(name) }

// All are the values of a parameter that may be given several times.
func (q Query) All(name string) []string { return q.v[name] }

// OneOf is the parameter's value, the first of the choices where it is not given. Kind InvalidParam.
func (q Query) OneOf(name string, choices ...string) (string, error) {
	if !q.v.Has(name) {
		return choices[0], nil
	}
	s := q.v.Get(name)
	if !slices.Contains(choices, s) {
		return "", fmt.Errorf("%s=%q: must be one of %s: %w", name, s, strings.Join(choices, ", "), errs.InvalidParam)
	}
	return s, nil
}

// Int is the parameter's value between lo and hi, def where it is not given. Kind InvalidParam.
func (q Query) Int(name string, def, lo, hi int64) (int64, error) {
	if !q.v.Has(name) {
		return def, nil
	}
	n, err := strconv.ParseInt(q.v.Get(name), 10, 64)
	if err != nil || n < lo || n > hi {
		return 0, fmt.Errorf("%s=%q: must be a number from %d to %d: %w", name, q.v.Get(name), lo, hi, errs.InvalidParam)
	}
	return n, nil
}

// Flag is true for "1" and "true", false for "0" and "false" and where it is not given. Kind InvalidParam.
func (q Query) Flag(name string) (bool, error) {
	s, err := q.OneOf(name, "0", "1", "true", "false")
	return s == "1" || s == "true", err
}

// Duration is the parameter's value between lo and hi, def where it is not given. Kind InvalidParam.
func (q Query) Duration(name string, def, lo, hi time.Duration) (time.Duration, error) {
	if !q.v.Has(name) {
		return def, nil
	}
	d, err := ParseDuration(q.v.Get(name))
	if err != nil || d < lo || d > hi {
		return 0, fmt.Errorf("%s=%q: must be a duration from %v to %v, as 90s, 5m or a number of seconds: %w", name, q.v.Get(name), lo, hi, errs.InvalidParam)
	}
	return d, nil
}

// ParseDuration reads Go's form or a whole number of seconds.
func ParseDuration(s string) (time.Duration, error) {
	if n, err := strconv.ParseInt(s, 10, 32); err == nil {
		return time.Duration(n) * time.Second, nil
	}
	return time.ParseDuration(s)
}

// Header is the header's only value, "" where it is not given. Given twice it is InvalidParam.
func Header(r *http.Request, name string) (string, error) {
	switch v := r.Header[http.CanonicalHeaderKey(name)]; len(v) {
	case 0:
		return "", nil
	case 1:
		return v[0], nil
	default:
		return "", fmt.Errorf("header %s is given %d times: %w", name, len(v), errs.InvalidParam)
	}
}

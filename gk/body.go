package gk

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// body is a request's object with the fields that the command line gave, and no others: what is not said stays as it is,
// or is the gateway's default.
type body map[string]any

// put adds a field that is given.
func put[T any](b body, name string, v *T) {
	if v != nil {
		b[name] = *v
	}
}

// some refuses a change of nothing.
func (b body) some() error {
	if len(b) == 0 {
		return usagef("nothing to change is given; --help lists what can be")
	}
	return nil
}

// span is a duration with no limit as "none".
type span string

// UnmarshalText checks it.
func (s *span) UnmarshalText(b []byte) error {
	if string(b) == "none" {
		*s = "-1ns"
		return nil
	}
	if _, err := time.ParseDuration(string(b)); err != nil {
		return fmt.Errorf("%q: must be a duration as 90s or 168h, or none", b)
	}
	*s = span(b)
	return nil
}

// moment is when a key expires: a time, or how long from now.
type moment time.Time

// UnmarshalText reads it.
func (m *moment) UnmarshalText(b []byte) error {
	if d, err := time.ParseDuration(string(b)); err == nil && d > 0 {
		*m = moment(time.Now().Add(d).UTC().Truncate(time.Second))
		return nil
	}
	t, err := time.Parse(time.RFC3339, string(b))
	if err != nil {
		return fmt.Errorf("%q: must be a time as 2026-12-31T00:00:00Z, or a duration from now as 720h", b)
	}
	*m = moment(t)
	return nil
}

// MarshalJSON writes RFC 3339.
func (m moment) MarshalJSON() ([]byte, error) {
	b, err := time.Time(m).MarshalJSON()
	if err != nil {
		return nil, fmt.Errorf("a time to expire: %w", err)
	}
	return b, nil
}

// position is PARTITION=OFFSET.
type position struct {
	Partition int32 `json:"partition"`
	Offset    int64 `json:"offset"`
}

// UnmarshalText reads it; a colon will do as well.
func (p *position) UnmarshalText(b []byte) error {
	left, right, found := strings.Cut(strings.Replace(string(b), ":", "=", 1), "=")
	partition, err := strconv.ParseInt(left, 10, 32)
	offset, err2 := strconv.ParseInt(right, 10, 64)
	if !found || err != nil || err2 != nil || partition < 0 || offset < 0 {
		return fmt.Errorf("%q: must be PARTITION=OFFSET, as 0=41", b)
	}
	p.Partition, p.Offset = int32(partition), offset
	return nil
}

// value is a JSON value as it is typed: what is no JSON is a string, so that nobody has to quote twice.
func value(s string) json.RawMessage {
	if json.Valid([]byte(s)) {
		return json.RawMessage(s)
	}
	b, err := json.Marshal(s)
	if err != nil { // a string always can be
		return json.RawMessage("null")
	}
	return b
}

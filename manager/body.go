package manager

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/kateway/kateway/internal/errs"
)

// maxBody is the largest body in bytes: that of the largest object of meta.
const maxBody = 64 << 10

// body reads the request's JSON object into v. What v holds already stays where the body says nothing of it, so that a
// PATCH is read into the present state; it may be called again, for a state that has changed meanwhile. A field that v
// does not have is refused by name; those listed in fixed are known, but not the caller's to set.
//
// Kinds: UnsupportedEncoding for anything but JSON as it is, so that no form of a web page can be taken for it; TooLarge;
// InvalidBody.
func (c *call) body(v any, fixed ...string) error {
	if c.raw == nil {
		b, err := c.readBody()
		if err != nil {
			return err
		}
		c.raw = bytes.TrimSpace(b)
	}
	if len(c.raw) == 0 || c.raw[0] != '{' {
		return fmt.Errorf("the body must be a JSON object: %w", errs.InvalidBody)
	}
	if err := json.Unmarshal(c.raw, v, json.RejectUnknownMembers(true)); err != nil {
		return bodyError(err, fixed)
	}
	return nil
}

func (c *call) readBody() ([]byte, error) {
	kind, _, err := mime.ParseMediaType(c.r.Header.Get("Content-Type"))
	if err != nil || kind != "application/json" {
		return nil, fmt.Errorf("the body must be JSON: send Content-Type: application/json: %w", errs.UnsupportedEncoding)
	}
	if e := c.r.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return nil, fmt.Errorf("Content-Encoding %.40q: send the body as it is: %w", e, errs.UnsupportedEncoding)
	}
	tooLarge := fmt.Errorf("the body has over %d bytes: %w", maxBody, errs.TooLarge)
	if c.r.ContentLength > maxBody {
		return nil, tooLarge
	}
	b, err := io.ReadAll(http.MaxBytesReader(c.w, c.r.Body, maxBody))
	var over *http.MaxBytesError
	switch {
	case errors.As(err, &over):
		return nil, tooLarge
	case err != nil:
		return nil, fmt.Errorf("reading the body: %w: %w", err, errs.InvalidBody)
	}
	return b, nil
}

// bodyError says which field is wrong, in the words of who wrote the body.
func bodyError(err error, fixed []string) error {
	var s *json.SemanticError
	if !errors.As(err, &s) {
		return fmt.Errorf("the body: %s: %w", strings.TrimPrefix(err.Error(), "jsontext: "), errs.InvalidBody)
	}
	field := strings.TrimPrefix(string(s.JSONPointer), "/")
	switch {
	case errors.Is(s.Err, json.ErrUnknownName) && slices.Contains(fixed, field):
		return fmt.Errorf("field %q can't be set here: %w", field, errs.InvalidBody)
	case errors.Is(s.Err, json.ErrUnknownName):
		return fmt.Errorf("there is no field %.64q: %w", field, errs.InvalidBody)
	case s.Err != nil:
		text := strings.TrimSuffix(s.Err.Error(), ": "+errs.InvalidBody.Error())
		return fmt.Errorf("field %q: %s: %w", field, text, errs.InvalidBody)
	}
	return fmt.Errorf("field %q can't be a JSON %s: %w", field, s.JSONKind, errs.InvalidBody)
}

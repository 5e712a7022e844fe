package auth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

const (
	maxKeyFile   = 256 << 10 // bytes of a JWKS or a secret
	fetchTimeout = 10 * time.Second
	fileEvery    = 5 * time.Second  // how often a file is looked at
	fetchRest    = 30 * time.Second // between two fetches that a token of an unknown key asked for
	fetchAgain   = 5 * time.Second  // after one that failed; doubled up to a minute
	keepKeys     = 24 * time.Hour   // how long keys count that could not be read again
)

// source is where the keys of an issuer come from. The last good ones stay while it fails, for a day; without any, no token of
// the issuer is good.
type source struct {
	where   string // a file or an https URL
	parse   func([]byte) (*keySet, error)
	refresh time.Duration
	client  *http.Client // nil for a file
	log     *slog.Logger
	changed func()

	present atomic.Pointer[reading]
	ask     chan struct{} // a token names a key that is not known; one token
}

// reading is the keys as they were read, and when that was last confirmed.
type reading struct {
	set  *keySet
	read time.Time
}

// newSource makes it. A file must be there, an URL is asked from follow on.
func newSource(o *Issuer, log *slog.Logger, changed func()) (*source, error) {
	s := &source{where: o.JWKS, parse: parseKeySet, refresh: o.Refresh, log: log.With("issuer", o.Issuer), changed: changed, ask: make(chan struct{}, 1)}
	if o.SecretFile != "" {
		s.where, s.parse = o.SecretFile, sharedKey
	}
	if strings.Contains(s.where, "://") {
		s.client = &http.Client{
			Timeout: fetchTimeout,
			Transport: &http.Transport{
				DisableKeepAlives: true, TLSHandshakeTimeout: fetchTimeout, MaxResponseHeaderBytes: 64 << 10, ForceAttemptHTTP2: true,
			},
			// Another place may be somebody else's.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
		return s, nil
	}
	return s, s.read(context.Background())
}

// keys are those that count; nil where there are none.
func (s *source) keys() *keySet {
	k := s.present.Load()
	if k == nil || time.Since(k.read) > keepKeys {
		return nil
	}
	return k.set
}

// missing has the keys read again, since a token names one that is not known: it may be new.
func (s *source) missing() {
	if s == nil {
		return
	}
	select {
	case s.ask <- struct{}{}:
	default: // it is asked already
	}
}

// follow keeps the keys up to date until ctx ends.
func (s *source) follow(ctx context.Context) {
	if s.client == nil {
		s.followFile(ctx)
		return
	}
	for failed := time.Duration(0); ; {
		wait := s.refresh
		switch err := s.read(ctx); {
		case ctx.Err() != nil:
			return
		case err != nil:
			failed = min(max(2*failed, fetchAgain), time.Minute)
			wait = min(failed, s.refresh)
			s.log.Error("the issuer's keys can't be read; the ones before count for a day", "where", s.where, "error", err)
		default:
			failed = 0
		}
		begun := time.Now()
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
			continue
		case <-s.ask:
		}
		select { // tokens that are made up must not have us ask without end
		case <-ctx.Done():
			return
		case <-time.After(time.Until(begun.Add(min(fetchRest, wait)))):
		}
	}
}

// followFile reads the file when it has changed.
func (s *source) followFile(ctx context.Context) {
	t := time.NewTicker(fileEvery)
	defer t.Stop()
	var failed string
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		err := s.read(ctx)
		if err != nil && err.Error() != failed {
			s.log.Error("the issuer's keys can't be read; the ones before count for a day", "where", s.where, "error", err)
		}
		failed = fmt.Sprint(err)
	}
}

// read reads the keys once.
func (s *source) read(ctx context.Context) error {
	var text []byte
	var err error
	if s.client != nil {
		text, err = s.fetch(ctx)
	} else {
		text, err = readFile(s.where)
	}
	if err != nil {
		return err
	}
	set, err := s.parse(text)
	if err != nil {
		return fmt.Errorf("%s: %w", s.where, err)
	}
	before := s.present.Load()
	if before != nil && before.set.text == set.text {
		set = before.set
	}
	s.present.Store(&reading{set, time.Now()})
	if before != nil && before.set != set {
		s.log.Info("the issuer's keys have changed", "keys", len(set.keys))
		s.changed()
	}
	return nil
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	return readAll(f)
}

func readAll(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxKeyFile+1))
	if err == nil && len(b) > maxKeyFile {
		err = fmt.Errorf("more than %d bytes", maxKeyFile)
	}
	return b, err
}

// fetch gets the text from the URL.
func (s *source) fetch(ctx context.Context) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.where, http.NoBody)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // it was only read
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New("it answers " + resp.Status)
	}
	return readAll(resp.Body)
}

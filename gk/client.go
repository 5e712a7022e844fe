package gk

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// maxAnswer bounds an answer that is kept in memory, in bytes. A page of the largest objects is about 64 MiB.
const maxAnswer = 80 << 20

// client speaks to one address of a gateway. It may be used concurrently.
type client struct {
	base    string // scheme://host:port, and a path in front where there is one; no slash at the end
	http    *http.Client
	header  http.Header       // of every request
	timeout time.Duration     // of a request whose answer is taken as a whole
	saw     func(http.Header) // nil, or told of every answer's header
}

// request is what is asked. Path is made by at.
type request struct {
	method, path string
	query        url.Values
	header       http.Header
	body         any    // as JSON; nil: none
	raw          []byte // instead of body, as it is
}

// answer is a whole answer of a 2xx status.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// into decodes the body.
func (a *answer) into(v any) error {
	if err := json.Unmarshal(a.body, v); err != nil {
		return fmt.Errorf("the answer is not what this version of gk knows: %w", err)
	}
	return nil
}

// statusError is an answer that is no 2xx.
type statusError struct {
	request string
	status  int
	problem problem
}

func (e *statusError) Error() string {
	text := fmt.Sprintf("%s: %d %s", e.request, e.status, http.StatusText(e.status))
	if e.problem.Detail != "" {
		text += ": " + e.problem.Detail
	}
	if e.problem.Code != "" {
		text += " (" + e.problem.Code + ")"
	}
	for _, f := range e.problem.Errors {
		text += "\n  " + strings.TrimPrefix(f.Path+": "+f.Message, ": ")
	}
	return text + e.advice()
}

// advice is what the caller of gk can do and the gateway can't know.
func (e *statusError) advice() string {
	switch {
	case e.status == http.StatusUnauthorized:
		return "; give the key with --admin-key-file or KATEWAY_ADMIN_KEY (pub and sub: --app-key-file or KATEWAY_APP_KEY)"
	case e.problem.Code == "precondition_failed":
		return "; look at it again and repeat with its new ETag"
	case e.status >= 300 && e.status < 400:
		return "; gk follows no redirects: is this the gateway's address?"
	}
	return ""
}

// hasCode reports whether err is the gateway's answer with this code.
func hasCode(err error, code string) bool {
	var e *statusError
	return errors.As(err, &e) && e.problem.Code == code
}

// newClient makes a client of an address: a URL, or host:port as the gateway's own options have it.
func newClient(what, address string, transport *http.Transport, timeout time.Duration) (*client, error) {
	base, err := baseURL(address)
	if _, after, found := strings.Cut(address, "@"); found {
		address = "...@" + after // what stands before it may be a password
	}
	if err != nil {
		return nil, usagef("%s %q: %v", what, address, err)
	}
	return &client{
		base: base, timeout: timeout, header: http.Header{"User-Agent": {"gk"}},
		http: &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse // a key goes nowhere else
		}},
	}, nil
}

// baseURL reads an address.
func baseURL(address string) (string, error) {
	if !strings.Contains(address, "://") {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return "", errors.New("must be a URL as http://127.0.0.1:9193, or host:port")
		}
		if host == "" { // to listen on all is to be found on the loopback
			host = "127.0.0.1"
		}
		address = "http://" + net.JoinHostPort(host, port)
	}
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return "", errors.New("must be a URL as http://127.0.0.1:9193, or host:port")
	case u.User != nil:
		return "", errors.New("must not have credentials in it; keys come from files or the environment")
	case u.RawQuery != "" || u.Fragment != "":
		return "", errors.New("must not have a query or fragment")
	}
	return strings.TrimRight(u.String(), "/"), nil
}

// newTransport makes the connections of all clients of one run.
func newTransport(caFile string) (*http.Transport, error) {
	tr := &http.Transport{
		Proxy:       http.ProxyFromEnvironment,
		DialContext: (&net.Dialer{Timeout: 3 * time.Second}).DialContext, TLSHandshakeTimeout: 5 * time.Second,
		MaxIdleConnsPerHost: maxBenchClients, IdleConnTimeout: time.Minute,
	}
	if caFile == "" {
		return tr, nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, usagef("--ca-file: %v", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, usagef("--ca-file %s: there is no PEM certificate in it", caFile)
	}
	tr.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}
	return tr, nil
}

// at joins segments to a path; what is in them can't break out of its segment.
func at(prefix string, segments ...string) string {
	var b strings.Builder
	b.WriteString(prefix)
	for _, s := range segments {
		b.WriteByte('/')
		b.WriteString(url.PathEscape(s))
	}
	return b.String()
}

// do asks and takes the whole answer. Errors are statusError where somebody answered, unreachableError where nobody did.
func (c *client) do(ctx context.Context, r request) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	resp, err := c.open(ctx, r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := readAtMost(resp.Body, maxAnswer)
	if err != nil {
		return nil, c.failed(ctx, r, fmt.Errorf("reading the answer: %w", err))
	}
	return &answer{resp.StatusCode, resp.Header, body}, nil
}

// open asks, and answers once a 2xx began; the caller closes the body. ctx bounds the answer to its end.
func (c *client) open(ctx context.Context, r request) (*http.Response, error) {
	req, err := c.request(ctx, r)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.failed(ctx, r, err)
	}
	if c.saw != nil {
		c.saw(resp.Header)
	}
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	e := &statusError{request: c.name(r), status: resp.StatusCode}
	if body, err := readAtMost(resp.Body, 1<<20); err == nil {
		_ = json.Unmarshal(body, &e.problem) // what is no problem document has nothing to say
	}
	return nil, e
}

func (c *client) request(ctx context.Context, r request) (*http.Request, error) {
	var body io.Reader
	switch {
	case r.raw != nil:
		body = bytes.NewReader(r.raw)
	case r.body != nil:
		b, err := json.Marshal(r.body)
		if err != nil {
			return nil, fmt.Errorf("writing the request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	target := c.base + r.path
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.method, target, body)
	if err != nil {
		return nil, fmt.Errorf("writing the request: %w", err)
	}
	if r.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, h := range []http.Header{c.header, r.header} {
		for name, values := range h {
			req.Header[name] = values
		}
	}
	return req, nil
}

// failed says what became of a request that has no answer.
func (c *client) failed(ctx context.Context, r request, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return fmt.Errorf("%s: interrupted: %w", c.name(r), context.Canceled)
	}
	var wrapped *url.Error // it would name the request a second time
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	return &unreachableError{fmt.Errorf("%s: no answer: %w", c.name(r), err)}
}

// name is the request as errors have it, without its query.
func (c *client) name(r request) string { return r.method + " " + c.base + r.path }

// get asks for one thing.
func (c *client) get(ctx context.Context, path string, query url.Values) (*answer, error) {
	return c.do(ctx, request{method: http.MethodGet, path: path, query: query})
}

// readAtMost reads to the end, which must come within limit bytes.
func readAtMost(r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("it has more than %d bytes", limit)
	}
	return b, err
}

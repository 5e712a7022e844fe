package gateway

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/kateway/kateway/internal/edge"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/httpx"
	"github.com/kateway/kateway/internal/online"
	"github.com/kateway/kateway/plugins"
)

// rules are what every request must keep, whatever it asks for: the limits on its head, and that no web page of another
// origin uses the gateway through somebody's browser.
type rules struct {
	maxFields int
	maxHeader int
	bodyTime  time.Duration
	minRate   int64    // of bodies, bytes a second; 0: none
	anyHost   bool     // do not look at Host
	hosts     []string // lower case, besides loopback
	origins   []string // lower case, whose pages are welcome
	proxies   *edge.Proxies
	watchers  []plugins.Watcher
	https     string // of whom it is asked: off, outer or always
	hsts      bool   // what is served over HTTPS here is for browsers too, and they are to come back by nothing else

	known atomic.Pointer[string] // the Host that passed last; nearly every request has the same
}

// newRules are those of one address. Where callers show who they are, a name that was made to point here is of no use to
// a web page, so that Host is not looked at.
func newRules(c *Config, served []Role, proxies *edge.Proxies) *rules {
	r := &rules{
		maxFields: c.MaxHeaderFields, maxHeader: int(c.MaxHeader), bodyTime: c.ReadBodyTimeout, minRate: int64(c.MinBodyRate),
		anyHost: c.Insecure || !c.Open() || served[0] == Peer, hsts: c.TLSCert != "" && slices.Contains(served, Man),
		proxies: proxies, https: c.RequireHTTPS,
	}
	for _, h := range c.Hosts {
		r.hosts = append(r.hosts, strings.ToLower(strings.TrimSuffix(h, ".")))
	}
	for _, o := range c.Origins {
		r.origins = append(r.origins, withoutDefaultPort(o))
	}
	return r
}

// arrived is the request as it is to be seen: from whom it really comes, and over which encryption.
func (r *rules) arrived(req *http.Request) *http.Request {
	if req.TLS == nil {
		req.TLS = edge.TLS(req.Context())
	}
	if r.proxies != nil && r.proxies.Arrived(req) {
		return req.WithContext(online.Behind(req.Context(), req.RemoteAddr))
	}
	return req
}

// checkHTTPS refuses a request in clear text of whom is to encrypt.
func (r *rules) checkHTTPS(req *http.Request) error {
	if r.https == off || r.https == "" || req.TLS != nil || r.proxies.Encrypted(req) {
		return nil
	}
	if r.https == outer && !isOuter(edge.Remote(req.RemoteAddr)) {
		return nil
	}
	return fmt.Errorf("this gateway is to be used over HTTPS only (--require-https %s): %w", r.https, errs.Denied)
}

// The values of --require-https, beside off.
const (
	outer  = "outer"
	always = "always"
)

// isOuter reports whether an address is one that the whole internet may come from.
func isOuter(a netip.Addr) bool {
	return !a.IsLoopback() && !a.IsPrivate() && !a.IsLinkLocalUnicast()
}

// guard puts the rules before a handler.
func (r *rules) guard(h httpx.Handler, anyOrigin bool) httpx.Handler {
	ruled := func(w http.ResponseWriter, req *http.Request) error {
		if r.hsts {
			w.Header()["Strict-Transport-Security"] = []string{"max-age=31536000"}
		}
		if err := r.check(w, req, anyOrigin); err != nil {
			return err
		}
		if req.ContentLength != 0 {
			if err := r.pace(w, req); err != nil {
				return err
			}
		}
		return h(w, req)
	}
	if anyOrigin { // who asks for our health is never refused
		return ruled
	}
	return r.watch(ruled)
}

func (r *rules) check(w http.ResponseWriter, req *http.Request, anyOrigin bool) error {
	if err := r.checkHead(req); err != nil {
		return err
	}
	if err := r.checkHost(req); err != nil {
		return err
	}
	if err := r.checkHTTPS(req); err != nil && !anyOrigin { // who checks health is next to us
		return err
	}
	if err := r.checkOrigin(w, req); err != nil && !anyOrigin {
		return err
	}
	return nil
}

// checkHead counts the request line and the header fields as they were sent over HTTP/1.1: name, colon, space, value and
// line end; Host, Transfer-Encoding and Trailer among them, once each, and of HTTP/2 :authority as Host and the other
// pseudo-headers as the request line. Cookies that HTTP/2 split count as one field.
func (r *rules) checkHead(req *http.Request) error {
	const punctuation = len(": \r\n")
	fields, size := 0, len(req.Method)+len(req.RequestURI)+len(req.Proto)+len("  \r\n")
	add := func(name string, value int) {
		fields++
		size += len(name) + value + punctuation
	}
	if req.Host != "" {
		add("Host", len(req.Host))
	}
	if len(req.TransferEncoding) > 0 {
		add("Transfer-Encoding", len("chunked"))
	}
	if len(req.Trailer) > 0 {
		names := 0
		for name := range req.Trailer {
			names += len(name) + len(", ")
		}
		add("Trailer", names-len(", "))
	}
	for name, values := range req.Header {
		for _, v := range values {
			add(name, len(v))
		}
	}
	if fields > r.maxFields {
		return fmt.Errorf("the request has %d header fields; at most %d are taken: %w", fields, r.maxFields, errs.HeadersTooLarge)
	}
	if size > r.maxHeader {
		return fmt.Errorf("request line and headers are %d bytes; at most %d are taken: %w", size, r.maxHeader, errs.HeadersTooLarge)
	}
	return nil
}

// checkHost refuses names that are not ours: a page whose own name was made to point here (DNS rebinding) has one.
func (r *rules) checkHost(req *http.Request) error {
	if r.anyHost {
		return nil
	}
	if known := r.known.Load(); known != nil && *known == req.Host {
		return nil
	}
	host := hostOnly(req.Host)
	if isLoopback(host) || slices.Contains(r.hosts, strings.ToLower(strings.TrimSuffix(host, "."))) {
		mine := req.Host // a pointer to the request's would keep all of it
		r.known.Store(&mine)
		return nil
	}
	return fmt.Errorf("host %q is neither this machine's loopback nor one of --hosts; add it there if this gateway is to be reached under it: %w",
		cut(host, 256), errs.CrossOrigin)
}

// checkOrigin refuses web pages of other origins, and lets those of --origins read the answer. A program that is no
// browser sends neither header. Sec-Fetch-Site is the browser's own word and can't be set by a page; older browsers send
// Origin alone, at least where a page could do harm.
func (r *rules) checkOrigin(w http.ResponseWriter, req *http.Request) error {
	origin, sites := req.Header["Origin"], req.Header["Sec-Fetch-Site"]
	if len(r.origins) > 0 {
		w.Header().Add("Vary", "Origin")
	}
	if len(origin) == 0 && len(sites) == 0 {
		return nil
	}
	if len(origin) > 1 || len(sites) > 1 {
		return fmt.Errorf("header Origin or Sec-Fetch-Site is given twice: %w", errs.CrossOrigin)
	}
	if len(origin) == 1 && slices.Contains(r.origins, origin[0]) {
		w.Header().Set("Access-Control-Allow-Origin", origin[0])
		w.Header().Set("Access-Control-Expose-Headers", "*")
		return nil
	}
	ours := len(origin) == 0 || sameHost(origin[0], req.Host)
	if len(sites) == 1 && sites[0] != "same-origin" && sites[0] != "none" {
		ours = false
	}
	if ours {
		return nil
	}
	from := "another origin"
	if len(origin) == 1 {
		from = cut(origin[0], 256)
	}
	return fmt.Errorf("a web page of %s may not use this gateway; list its origin in --origins if it is to: %w", from, errs.CrossOrigin)
}

// preflight answers a browser's question whether a page of --origins may send a request, once checkOrigin let it pass.
func (r *rules) preflight(w http.ResponseWriter, req *http.Request, allowed []string) bool {
	h := w.Header()
	if req.Method != http.MethodOptions || h.Get("Access-Control-Allow-Origin") == "" || req.Header.Get("Access-Control-Request-Method") == "" {
		return false
	}
	h.Del("Access-Control-Expose-Headers")
	h.Set("Access-Control-Allow-Methods", strings.Join(allowed, ", "))
	if names := req.Header.Get("Access-Control-Request-Headers"); names != "" {
		h.Set("Access-Control-Allow-Headers", names) // X-Msg-* are of the page's own choice
	}
	h.Set("Access-Control-Max-Age", "600")
	h.Add("Vary", "Access-Control-Request-Headers")
	w.WriteHeader(http.StatusNoContent)
	return true
}

// hostOnly is a Host header without its port.
func hostOnly(hostport string) string {
	if host, _, err := net.SplitHostPort(hostport); err == nil {
		return host
	}
	return strings.Trim(hostport, "[]")
}

// sameHost reports whether the origin is the host that was asked. The scheme is not compared: a proxy in front may speak
// TLS for us. The port is, since another port is another origin.
func sameHost(origin, host string) bool {
	u, err := url.Parse(origin)
	return err == nil && u.Host != "" && strings.EqualFold(u.Host, host)
}

// withoutDefaultPort is the origin as browsers write it.
func withoutDefaultPort(origin string) string {
	if s, ok := strings.CutPrefix(origin, "http://"); ok {
		return "http://" + strings.TrimSuffix(s, ":80")
	}
	s := strings.TrimPrefix(origin, "https://")
	return "https://" + strings.TrimSuffix(s, ":443")
}

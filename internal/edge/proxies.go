package edge

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
)

// Proxies are the addresses of whom we believe where requests come from. A nil Proxies trusts nobody.
type Proxies struct{ nets []netip.Prefix }

// ParseProxies reads networks and single addresses; nil for none.
func ParseProxies(list []string) (*Proxies, error) {
	if len(list) == 0 {
		return nil, nil //nolint:nilnil // nobody is trusted
	}
	p := &Proxies{}
	for _, s := range list {
		n, err := netip.ParsePrefix(s)
		if a, aerr := netip.ParseAddr(s); aerr == nil && a.Zone() == "" {
			n, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil {
			return nil, fmt.Errorf("%q is neither an address nor a network as 10.0.0.0/8", s)
		}
		if n.Addr().Is4In6() {
			return nil, fmt.Errorf("%q: write it as an IPv4 address", s)
		}
		p.nets = append(p.nets, n.Masked())
	}
	return p, nil
}

// Trusts reports whether the address is a trusted proxy's.
func (p *Proxies) Trusts(a netip.Addr) bool {
	if p == nil {
		return false
	}
	a = a.Unmap()
	for _, n := range p.nets {
		if n.Contains(a) {
			return true
		}
	}
	return false
}

// The headers by which proxies tell where a request comes from.
const (
	forwardedFor   = "X-Forwarded-For"
	forwardedProto = "X-Forwarded-Proto"
)

// Arrived puts the true client's address into r.RemoteAddr, and reports whether that changed it. Only a trusted proxy is
// believed: the client is the right-most address in X-Forwarded-For that is no trusted proxy itself; where that can't be
// read, the one that named it. A port that is not told is 0. What others say in these headers is removed.
func (p *Proxies) Arrived(r *http.Request) bool {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !p.Trusts(peer.Addr()) {
		r.Header.Del(forwardedFor)
		r.Header.Del(forwardedProto)
		return false
	}
	client := peer
	lists := r.Header[forwardedFor]
	for i := len(lists) - 1; i >= 0; i-- {
		for rest, more := lists[i], true; more; {
			var hop string
			rest, hop, more = cutLast(rest)
			a, ok := parseHop(hop)
			if ok {
				client = a
			}
			if !ok || !p.Trusts(a.Addr()) {
				return p.set(r, peer, client)
			}
		}
	}
	return p.set(r, peer, client)
}

func (*Proxies) set(r *http.Request, peer, client netip.AddrPort) bool {
	if client == peer {
		return false
	}
	r.RemoteAddr = client.String()
	return true
}

// cutLast splits what stands behind the last comma off.
func cutLast(s string) (before, last string, more bool) {
	i := strings.LastIndexByte(s, ',')
	if i < 0 {
		return "", strings.Trim(s, " \t"), false
	}
	return s[:i], strings.Trim(s[i+1:], " \t"), true
}

// parseHop reads an address with or without a port.
func parseHop(s string) (netip.AddrPort, bool) {
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"))
		if err != nil {
			return netip.AddrPort{}, false
		}
		ap = netip.AddrPortFrom(a, 0)
	}
	if ap.Addr().Zone() != "" || ap.Addr().IsUnspecified() {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), true
}

// Encrypted reports whether a proxy that is trusted says of a request, after Arrived, that it came to it over HTTPS: of
// several words in X-Forwarded-Proto the last is that of the nearest one.
func (p *Proxies) Encrypted(r *http.Request) bool {
	list := r.Header[forwardedProto]
	if p == nil || len(list) == 0 {
		return false
	}
	_, last, _ := cutLast(list[len(list)-1])
	return strings.EqualFold(last, "https")
}

// Remote is the address in a RemoteAddr; the zero Addr where it is none.
func Remote(remote string) netip.Addr {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}

package gateway

import (
	"net/netip"
	"strings"
)

// Role is a part of the gateway's service that has an address of its own.
type Role string

// The roles.
const (
	Pub  Role = "pub"  // publish
	Sub  Role = "sub"  // subscribe
	Man  Role = "man"  // management API, metrics, pprof
	Peer Role = "peer" // the other gateways
)

// off is the address of a role that is not served.
const off = "off"

var roles = []Role{Pub, Sub, Man, Peer} // read only

// address is where the role is to be served.
func (c *Config) address(r Role) string {
	switch {
	case r == Man:
		return c.Man
	case r == Peer && c.Peer == "":
		return off
	case r == Peer:
		return c.Peer
	case r == Sub && c.Sub != "":
		return c.Sub
	}
	return c.Pub
}

// endpoint is one listener to be and the roles that share it.
type endpoint struct {
	addr  string
	roles []Role
}

// endpoints are the listeners that the configuration asks for: one per address. Port 0 is no address yet, so that each
// role that names it gets a port of its own; sub without a word of its own goes with pub.
func (c *Config) endpoints() []endpoint {
	var list []endpoint
next:
	for _, r := range roles {
		addr := c.address(r)
		if addr == off {
			continue
		}
		free := strings.HasSuffix(addr, ":0") && (r != Sub || c.Sub != "")
		for i := range list {
			if list[i].addr == addr && !free {
				list[i].roles = append(list[i].roles, r)
				continue next
			}
		}
		list = append(list, endpoint{addr, []Role{r}})
	}
	return list
}

// isLoopback reports whether host, without a port, can only be this machine. Names other than localhost are not looked
// up: what they mean is for others to decide.
func isLoopback(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	a, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && a.Unmap().IsLoopback()
}

package edge

import (
	"net"
	"net/netip"
	"sync"
)

// Why a connection is refused.
const (
	reasonTotal   = "total"
	reasonAddress = "address"
)

// Limits bound how many connections are open. Its methods may be called concurrently.
type Limits struct {
	total, perAddress int64 // 0: no limit

	mu   sync.Mutex
	open int64
	from map[netip.Addr]int64 // no more entries than connections
}

// NewLimits are for so many connections in all, and from one address; 0 is no limit. Loopback and trusted proxies, behind
// which there are many, may have as many as there are.
func NewLimits(total, perAddress int64) *Limits {
	return &Limits{total: total, perAddress: perAddress, from: map[netip.Addr]int64{}}
}

// take asks for room; done gives it back, once. The reason is "" where there is room.
func (l *Limits) take(addr netip.Addr, trusted bool, spare int64) (done func(), reason string) {
	counts := l.perAddress > 0 && spare == 0 && !trusted && !addr.IsLoopback() && addr.IsValid()
	addr = Network(addr)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total > 0 && l.open >= l.total+spare {
		return nil, reasonTotal
	}
	if counts && l.from[addr] >= l.perAddress {
		return nil, reasonAddress
	}
	l.open++
	if counts {
		l.from[addr]++
	}
	return func() { l.give(addr, counts) }, ""
}

func (l *Limits) give(addr netip.Addr, counted bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	if !counted {
		return
	}
	if l.from[addr]--; l.from[addr] == 0 {
		delete(l.from, addr)
	}
}

// Network is what counts as one address: an IPv6 client has a /64 to choose from.
func Network(a netip.Addr) netip.Addr {
	if a.Is6() && !a.Is4In6() {
		return netip.PrefixFrom(a.WithZone(""), 64).Masked().Addr()
	}
	return a.Unmap()
}

// addrOf is the address without its port; the zero Addr where it is none.
func addrOf(a net.Addr) netip.Addr {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

package pub

import (
	"slices"
	"sync"
)

const (
	// minPooled is the smallest buffer worth keeping; smaller ones are made to measure.
	minPooled = 32 << 10
	// overshoot is by how much a zstd decoder may run over before it notices: a block, and what it copies beyond.
	overshoot = 160 << 10
)

// buffers lends buffers for bodies. One that the store keeps, after errs.Uncertain, is not given back: the collector gets it.
type buffers struct {
	sizes []int // ascending
	pools []sync.Pool
}

// newBuffers has sizes for bodies up to the largest limit, decoded ones with their overshoot.
func newBuffers(limits ...int) *buffers {
	b := &buffers{}
	for size := minPooled; size < slices.Max(limits); size *= 2 {
		b.sizes = append(b.sizes, size)
	}
	for _, limit := range limits {
		b.sizes = append(b.sizes, limit+overshoot)
	}
	slices.Sort(b.sizes)
	b.sizes = slices.Compact(b.sizes)
	b.pools = make([]sync.Pool, len(b.sizes))
	return b
}

// get is an empty buffer with room for n bytes.
func (b *buffers) get(n int) []byte {
	if n < minPooled {
		return make([]byte, 0, n)
	}
	i, _ := slices.BinarySearch(b.sizes, n)
	if i == len(b.sizes) {
		return make([]byte, 0, n)
	}
	if p, ok := b.pools[i].Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, 0, b.sizes[i])
}

// put gives a buffer back that nobody uses any more.
func (b *buffers) put(buf []byte) {
	if cap(buf) < minPooled {
		return
	}
	if i, ok := slices.BinarySearch(b.sizes, cap(buf)); ok {
		buf = buf[:0]
		b.pools[i].Put(&buf)
	}
}

// grow is buf with at least twice the room, at most limit bytes of it where that is more.
func (b *buffers) grow(buf []byte, limit int) []byte {
	bigger := b.get(max(min(4*cap(buf), limit), 2*cap(buf)))
	bigger = append(bigger, buf...)
	b.put(buf)
	return bigger
}

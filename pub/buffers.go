package pub

import (
	"slices"
	"sync"
)

const (
	// minPooled is the smallest buffer worth keeping; smaller ones are made to measure.
	minPooled = 32 << 10
	// minBig is the smallest buffer of which only one of a size is kept, for whoever comes next. A sync.Pool might keep one
	// per processor, and that adds up.
	minBig = 1 << 20
)

// buffers lends buffers for bodies. One that the store keeps, after errs.Uncertain, is not given back: the collector gets
// it. What is kept is bounded by about twice the largest limit, and the small ones are up to the collector.
type buffers struct {
	sizes []int // ascending
	small []sync.Pool
	big   []chan []byte // by the same index as sizes; nil for small ones
}

// newBuffers has sizes for bodies up to the largest limit, and one for each limit.
func newBuffers(limits ...int) *buffers {
	b := &buffers{sizes: limits}
	for size := minPooled; size < slices.Max(limits); size *= 2 {
		b.sizes = append(b.sizes, size)
	}
	slices.Sort(b.sizes)
	b.sizes = slices.Compact(b.sizes)
	b.small = make([]sync.Pool, len(b.sizes))
	b.big = make([]chan []byte, len(b.sizes))
	for i, size := range b.sizes {
		if size >= minBig {
			b.big[i] = make(chan []byte, 1)
		}
	}
	return b
}

// get is an empty buffer with room for n bytes.
func (b *buffers) get(n int) []byte {
	i, _ := slices.BinarySearch(b.sizes, n)
	if n < minPooled || i == len(b.sizes) {
		return make([]byte, 0, n)
	}
	if big := b.big[i]; big != nil {
		select {
		case buf := <-big:
			return buf
		default:
		}
	} else if p, ok := b.small[i].Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, 0, b.sizes[i])
}

// put gives a buffer back that nobody uses any more.
func (b *buffers) put(buf []byte) {
	i, ok := slices.BinarySearch(b.sizes, cap(buf))
	if !ok {
		return
	}
	if big := b.big[i]; big != nil {
		select {
		case big <- buf[:0]:
		default:
		}
		return
	}
	keep := buf[:0] // another variable, so that only this path allocates
	b.small[i].Put(&keep)
}

// grow is buf with more room: four times as much, or all of limit bytes, of which it has fewer, where that is near: a step
// in between would cost as much memory as the last one.
func (b *buffers) grow(buf []byte, limit int) []byte {
	n := 4 * cap(buf)
	if n > limit/2 {
		n = limit
	}
	bigger := b.get(n)
	bigger = append(bigger, buf...)
	b.put(buf)
	return bigger
}

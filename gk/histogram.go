package gk

import (
	"math/bits"
	"time"
)

// subBuckets is into how many steps a doubling is cut: a value is known to 1/32, that is 3 %.
const subBuckets = 32

// histogram counts durations in fixed memory, whatever their number. It has no lock.
type histogram struct {
	counts [64 * subBuckets]int64
	n      int64
	max    time.Duration
}

func (h *histogram) add(d time.Duration) {
	d = max(d, 0)
	h.counts[bucket(uint64(d))]++
	h.n++
	h.max = max(h.max, d)
}

// merge adds what another counted.
func (h *histogram) merge(other *histogram) {
	for i, n := range &other.counts {
		h.counts[i] += n
	}
	h.n += other.n
	h.max = max(h.max, other.max)
}

// quantile is the duration that the share q of all does not exceed, 3 % too high at most; 0 where nothing was counted.
func (h *histogram) quantile(q float64) time.Duration {
	rank := max(int64(q*float64(h.n)+0.5), 1)
	for i, n := range &h.counts {
		if rank -= n; rank <= 0 {
			return min(time.Duration(upper(i)), h.max)
		}
	}
	return h.max
}

// bucket is the number of the bucket that v falls in.
func bucket(v uint64) int {
	if v < subBuckets {
		return int(v)
	}
	shift := bits.Len64(v) - 6 // leaves 32 to 63
	return (shift+1)*subBuckets + int(v>>shift) - subBuckets
}

// upper is the largest value of a bucket.
func upper(i int) uint64 {
	if i < 2*subBuckets {
		return uint64(i)
	}
	shift := i/subBuckets - 1
	return uint64(i%subBuckets+subBuckets+1)<<shift - 1
}

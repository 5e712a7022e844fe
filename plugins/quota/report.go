package quota

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/kateway/kateway/internal/errs"
)

// A report is a byte, its version, and of each app the length of its name, the name, demand and share as 32-bit floats, and
// three numbers of what is under way. Numbers are varints.
const (
	reportVersion = 1
	maxReport     = 1 << 20 // what an answer may have; see plugins.Answerer
)

// told is an app and what is told of it.
type told struct {
	app string
	claim
}

// encode makes a report of what of the list there is room for.
func encode(list []told, room int) []byte {
	b := make([]byte, 1, min(room, 1+32*len(list)))
	b[0] = reportVersion
	for i := range list {
		before := len(b)
		b = list[i].append(b)
		if len(b) > room {
			return b[:before]
		}
	}
	return b
}

func (t *told) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(t.app)))
	b = append(b, t.app...)
	b = binary.BigEndian.AppendUint32(b, math.Float32bits(float32(t.demand)))
	b = binary.BigEndian.AppendUint32(b, math.Float32bits(float32(t.share)))
	b = binary.AppendUvarint(b, uint64(max(t.counts.calls, 0)))
	b = binary.AppendUvarint(b, uint64(max(t.counts.streams, 0)))
	return binary.AppendUvarint(b, uint64(max(t.counts.bytes, 0)))
}

// decode reads a report. Kind InvalidBody.
func decode(b []byte) (map[string]claim, error) {
	if len(b) == 0 || b[0] != reportVersion {
		return nil, fmt.Errorf("a report of another version: %w", errs.InvalidBody)
	}
	r := reader{rest: b[1:]}
	apps := map[string]claim{}
	for len(r.rest) > 0 {
		name := string(r.take(r.uvarint()))
		var c claim
		c.demand, c.share = r.float(), r.float()
		c.counts.calls, c.counts.streams, c.counts.bytes = int(r.uvarint()), int(r.uvarint()), r.uvarint()
		if r.broken || !(c.demand >= 0 && c.demand < math.MaxFloat32 && c.share >= 0 && c.share <= 1) {
			return nil, fmt.Errorf("a report that is broken: %w", errs.InvalidBody)
		}
		apps[name] = c
	}
	return apps, nil
}

// reader reads a report, until something is wrong.
type reader struct {
	rest   []byte
	broken bool
}

// maxCount is the largest number that is believed: sums of many do not overflow.
const maxCount = 1 << 50

func (r *reader) uvarint() int64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 || v > maxCount {
		r.broken = true
		return 0
	}
	r.rest = r.rest[n:]
	return int64(v)
}

func (r *reader) take(n int64) []byte {
	if n > int64(len(r.rest)) {
		r.broken, n = true, 0
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) float() float64 {
	b := r.take(4)
	if len(b) < 4 {
		return 0
	}
	return float64(math.Float32frombits(binary.BigEndian.Uint32(b)))
}

package sub

import "github.com/kateway/kateway/broadcast"

// cursor is where a stream of a group stands on every partition that it has seen. The group's own position counts more: it
// is given so that a reader that loses its group can go on without one.
type cursor struct{ broadcast.Vector }

func newCursor(topic string) cursor { return cursor{broadcast.NewVector(topic)} }

// pass notes that the reader has got past the offset.
func (c *cursor) pass(partition int32, offset int64) { c.Pass(partition, offset) }

// append appends the cursor's text to dst.
func (c *cursor) append(dst []byte) []byte { return c.Append(dst) }

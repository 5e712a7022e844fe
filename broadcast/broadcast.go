// Package broadcast reads topics without a group: every reader sees every message, nothing is acked and nothing is kept
// of a reader but the cursor that it carries itself. It knows no HTTP.
package broadcast

import (
	"context"
	"iter"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// Store is what a hub reads from.
type Store interface {
	store.Follower
	// Resolve and Browse are store.Admin's.
	Resolve(ctx context.Context, topic string, start store.Start) ([]store.Position, error)
	Browse(ctx context.Context, topic string, partition int32, offset int64) iter.Seq2[*store.Message, error]
}

// Config is what a hub is made of.
type Config struct {
	Store   Store
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// Ask is what a reader wants.
type Ask struct {
	Topic string // its name in the store
	From  Cursor
	Start store.Start               // where From is nowhere
	Match func(*store.Message) bool // nil: all messages; called by Reader.Next, the others are passed over
}

// Item is a message as all its readers get it: nobody writes to it or to its bytes.
type Item struct {
	*store.Message
	Object []byte // the JSON object of the message, without a cursor
	Cursor []byte // the text of the cursor behind the message
}

// AppendObject appends the JSON object of the message with its cursor.
func (it *Item) AppendObject(dst []byte) []byte {
	dst = append(dst, it.Object[:len(it.Object)-1]...)
	dst = append(dst, `,"cursor":"`...)
	dst = append(dst, it.Cursor...)
	return append(dst, `"}`...)
}

// Batch is what one Next brought. Gaps come before the items. Its slices are good until the next call of Next.
type Batch struct {
	Gaps  []store.Gap
	Items []Item
}

// Hub has the readers of this process.
type Hub struct{ cfg Config }

// NewHub makes a hub without readers. Close ends it.
func NewHub(cfg Config) *Hub { return &Hub{cfg: cfg} }

// Open makes the caller a reader of the topic. When it returns, the place where the reader begins is fixed. ctx bounds
// only that. Kinds: Draining; Overloaded when too many topics are read; InvalidParam when From reads partitions that are not
// there; those of store.Follower.
func (h *Hub) Open(_ context.Context, _ Ask) (*Reader, error) { return nil, errs.Draining }

// Drain ends the readers with errs.Draining, spread evenly over the time given, and refuses new ones. It does not wait.
func (h *Hub) Drain(over time.Duration) {}

// Close ends every reader with errs.Draining and frees everything. ctx bounds the wait.
func (h *Hub) Close(ctx context.Context) error { return nil }

// Reader is one reader of a topic. One goroutine at a time may call it.
type Reader struct{}

// Next waits for the first message or gap until ctx ends, and answers what is at hand, at most max messages. With a ctx
// that has ended it does not wait.
// Errors: ctx.Err() when nothing came; errs.Draining when the gateway stops; errs.UnknownTopic when the topic is gone;
// errs.Unavailable when the store can't be read. After any but ctx.Err() the reader is over.
func (r *Reader) Next(ctx context.Context, max int) (Batch, error) { return Batch{}, errs.Draining }

// AppendCursor appends the text of the cursor behind what Next has answered last, or of where the reader began.
func (r *Reader) AppendCursor(dst []byte) []byte { return dst }

// Close ends the reader. A second Close does nothing.
func (r *Reader) Close() {}

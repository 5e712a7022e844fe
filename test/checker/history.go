// Package checker judges whether a gateway kept its word. A run of the gateway is a History: what every client began and how
// it ended, every fault, and the ground truth, which is read beside the gateway. Check looks for the anomalies C1-C25 in it
// and knows nothing of how a gateway works: only what was promised.
//
// A message proves itself by its payload, so that what a client reads can be compared with what was sent.
package checker

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"
)

// Phase says what a record is of its operation.
type Phase string

// An operation is one Invoke, noted before anything is sent, and what it ended with, noted after everything was read. One
// of several messages may end differently for each: then there is a record per outcome.
const (
	Invoke Phase = "invoke"
	OK     Phase = "ok"   // 2xx
	Fail   Phase = "fail" // certainly not done: 4xx, or 503 that says so
	Info   Phase = "info" // nobody knows: time-out, reset, any other 5xx
)

// Op is what a client or the test does.
type Op string

// The operations.
const (
	Publish Op = "publish" // Messages: what is published, or stored with its place, or refused
	Poll    Op = "poll"    // OK: the answer was read whole. Info: it was not; Messages are those that were
	Stream  Op = "stream"  // Invoke: opened. OK: the server ended it in order. Info: it broke, or the client left
	Chunk   Op = "chunk"   // OK: Messages have come on the stream of Of; Partial ones only in part
	Ack     Op = "ack"     // Messages are known by their receipts
	Nack    Op = "nack"
	Extend  Op = "extend"
	Bury    Op = "bury"
	Through Op = "through" // all up to and including each of Messages is done
	Seek    Op = "seek"    // the group was moved by the management API
	Fault   Op = "fault"   // Invoke: it begins; OK: it ends. Of a moment: an Invoke alone
	Drain   Op = "drain"   // Invoke: load and faults are over. OK: nothing is left; Fail: something is, and it took too long

	// Ground truth.
	Declare   Op = "declare"   // Spec says what is promised to Group on Topic, or to the reader Client
	Stored    Op = "stored"    // Messages are what the store has in Topic, in order of partition and offset
	Retry     Op = "retry"     // Messages are what the group's retry queue has; partition and offset are those of the origin
	Dead      Op = "dead"      // the same of its dead queue
	Committed Op = "committed" // OK: Messages have partition and the offset below which the group has done everything
)

// Message is one message in a record. Which fields count depends on the operation.
type Message struct {
	ID        ID     `json:"id,omitzero"`
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
	Key       string `json:"key,omitempty"`
	Tag       string `json:"tag,omitempty"`
	Attempt   int    `json:"attempt,omitempty"`
	Receipt   string `json:"receipt,omitempty"`
	Cause     string `json:"cause,omitempty"`   // of a dead message
	Wrong     string `json:"wrong,omitempty"`   // why it is not what it should be, found by who read it
	Cut       bool   `json:"cut,omitempty"`     // shorter than it says
	Nowhere   bool   `json:"nowhere,omitempty"` // came in a form that does not say where it is; of a publish that is OK: it was spooled
	Partial   bool   `json:"partial,omitempty"` // only its beginning has come; ID may not be known
}

// Spec is what is promised to a group, or to a reader without one.
type Spec struct {
	Mode        string        `json:"mode"` // fifo, queue, key; broadcast for a reader without a group
	Explicit    bool          `json:"explicit,omitempty"`
	Lease       time.Duration `json:"lease,omitempty"`
	MaxAttempts int           `json:"max_attempts,omitempty"` // 0: no limit
	Tags        []string      `json:"tags,omitempty"`         // only messages with one of them are for the group
	Whole       bool          `json:"whole,omitempty"`        // of a reader: it began at the oldest and read to the end
}

// Record is one line of a history.
type Record struct {
	N        int           `json:"n"`            // its place in the history, from 1
	Of       int           `json:"of,omitempty"` // the N of the Invoke that it belongs to
	At       time.Duration `json:"at"`           // since the run began
	Op       Op            `json:"op"`
	Phase    Phase         `json:"phase"`
	Client   string        `json:"client,omitempty"`
	Via      string        `json:"via,omitempty"` // the gateway
	Topic    string        `json:"topic,omitempty"`
	Group    string        `json:"group,omitempty"`
	Messages []Message     `json:"messages,omitempty"`
	Spec     *Spec         `json:"spec,omitempty"`
	Once     bool          `json:"once,omitempty"`    // a publish with an idempotency key
	Broken   bool          `json:"broken,omitempty"`  // a publish whose body ends before its end
	Unclean  bool          `json:"unclean,omitempty"` // a fault by which a gateway may forget what it has not committed
	Unsure   bool          `json:"unsure,omitempty"`  // a fault in which the store may not say whether it has a message
	Note     string        `json:"note,omitempty"`
}

// History is what happened, in the order in which it was noted. Its methods may be called concurrently.
type History struct {
	begun time.Time

	mu      sync.Mutex
	records []Record
}

// NewHistory begins one now.
func NewHistory() *History { return &History{begun: time.Now()} }

// Note appends a record and answers its number. N and At are set here.
func (h *History) Note(r Record) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	r.N, r.At = len(h.records)+1, time.Since(h.begun)
	h.records = append(h.records, r)
	return r.N
}

// End notes how the operation begun by record of ended, for the messages given or, where none is, for all that it began with.
func (h *History) End(of int, phase Phase, note string, messages ...Message) int {
	h.mu.Lock()
	r := h.records[of-1]
	h.mu.Unlock()
	r.Of, r.Phase, r.Note, r.Spec = of, phase, note, nil
	if len(messages) > 0 {
		r.Messages = messages
	}
	return h.Note(r)
}

// Records are those noted so far. The slice is the caller's, what it points to is not.
func (h *History) Records() []Record {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]Record(nil), h.records...)
}

// Len is how many there are so far: the N of the last.
func (h *History) Len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.records)
}

// Dump writes one JSON object per line.
func Dump(w io.Writer, records []Record) error {
	b := bufio.NewWriter(w)
	enc := json.NewEncoder(b)
	for i := range records {
		if err := enc.Encode(&records[i]); err != nil {
			return err
		}
	}
	return b.Flush()
}

// Load reads what Dump wrote.
func Load(r io.Reader) (records []Record, err error) {
	dec := json.NewDecoder(r)
	for {
		var rec Record
		if err := dec.Decode(&rec); err == io.EOF {
			return records, nil
		} else if err != nil {
			return nil, fmt.Errorf("record %d: %w", len(records)+1, err)
		}
		records = append(records, rec)
	}
}

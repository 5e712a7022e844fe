package meta

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/kateway/kateway/internal/errs"
)

// Kind is a sort of object that meta keeps.
type Kind string

// The kinds.
const (
	KindApp          Kind = "apps"
	KindTopic        Kind = "topics"
	KindSubscription Kind = "subscriptions"
	KindCluster      Kind = "clusters"
	KindAdminKey     Kind = "adminkeys"
	KindOption       Kind = "options"
	KindSecret       Kind = "secrets"
	KindSchema       Kind = "schemas"
)

// Kinds lists them all.
func Kinds() []Kind {
	return []Kind{KindApp, KindTopic, KindSubscription, KindCluster, KindAdminKey, KindOption, KindSecret, KindSchema}
}

// ID names an object. A name has no slash; that of a topic is <app>.<topic>.<ver>, that of a subscription
// <app>.<topic>.<ver>.<subscriber>, that of a schema <app>.<topic>.<ver>.<its version, in five digits>.
type ID struct {
	Kind Kind
	Name string
}

func (id ID) String() string { return string(id.Kind) + "/" + id.Name }

// nameRule is what all names of objects have in common: each is a name of a file and of a node as it is.
var nameRule = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}$`)

// Check refuses what no object can be called. Kind InvalidName.
func (id ID) Check() error {
	if !slices.Contains(Kinds(), id.Kind) {
		return fmt.Errorf("there is no kind of object %.40q: %w", id.Kind, errs.InvalidName)
	}
	return check("object", id.Name, nameRule)
}

// MaxObject is the largest object in bytes.
const MaxObject = 64 << 10

// Absent as Change.Match: there must be no such object yet.
const Absent = "-"

// ETag names the content of an object: whoever changes it can say which content he has seen.
func ETag(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:12])
}

// Change replaces one object.
type Change struct {
	ID
	Match string // the ETag that the present content must have; Absent: there must be none; "": whatever there is
	Data  []byte // the new content, one JSON object without white space, at most MaxObject bytes; nil deletes
}

// Check looks at what every source would have to: form and size, and whether the present content (nil: none) is the one that
// the change was made for. Kinds: InvalidName; InvalidBody; TooLarge; PreconditionFailed; Conflict where there is an object already;
// NotFound where there is none to delete.
func (c Change) Check(present []byte) error {
	if err := c.ID.Check(); err != nil {
		return err
	}
	switch {
	case c.Data != nil && !isObject(c.Data):
		return fmt.Errorf("%s is no JSON object: %w", c.ID, errs.InvalidBody)
	case len(c.Data) > MaxObject:
		return fmt.Errorf("%s has %d bytes, %d at most: %w", c.ID, len(c.Data), MaxObject, errs.TooLarge)
	case c.Match == Absent && present != nil:
		return fmt.Errorf("%s exists: %w", c.ID, errs.Conflict)
	case c.Data == nil && present == nil:
		return fmt.Errorf("%s: %w", c.ID, errs.NotFound)
	case c.Match != "" && c.Match != Absent && (present == nil || ETag(present) != c.Match):
		return fmt.Errorf("%s has changed meanwhile: %w", c.ID, errs.PreconditionFailed)
	}
	return nil
}

// Compact is a JSON object as sources tell it and ETag sees it: a copy without the white space. InvalidBody where it is no JSON object, in UTF-8 and without a name given twice.
func Compact(data []byte) ([]byte, error) {
	if !isObject(data) {
		return nil, fmt.Errorf("this is no JSON object: %w", errs.InvalidBody)
	}
	v := jsontext.Value(slices.Clone(data))
	if err := v.Compact(); err != nil {
		return nil, fmt.Errorf("%w: %w", errs.InvalidBody, err)
	}
	return v, nil
}

func isObject(data []byte) bool {
	v := jsontext.Value(data)
	return v.Kind() == '{' && v.IsValid()
}

// Update is what a source has to tell.
type Update struct {
	Objects map[ID][]byte    // new content; nil: the object is gone. The first Update of a source has them all.
	Whole   bool             // these are all there are: what is not in Objects is gone
	Faults  map[string]error // by place (a file, a node; see Source.Place): what can't be read at present; the last good content of it stays. Always the full list.
	Through uint64           // see Source.Apply
}

// Source keeps the objects of meta: ZooKeeper, files, memory. It does not look into their content but for its being JSON.
// Its methods may be called concurrently, but only one Next at a time.
type Source interface {
	// Next waits until there is something that it has not told yet, and tells it: at first everything. After an error
	// (Unavailable: the source can't be reached) it may be called again and has lost nothing; when the source is back
	// there is an Update, be it an empty one. When ctx ends it answers ctx.Err(), after Close an error.
	// A change that somebody else made is told within a second of its being made, while the source can be reached.
	// The bytes of an Update are shared: nobody writes to them.
	Next(ctx context.Context) (Update, error)
	// Apply makes the change, durably, unless somebody else changed the object first (see Change.Match). The Update that
	// has it, or something newer, is the first with Through >= at. Kinds: those of Change.Check; Unavailable: not done, or,
	// where it says so, perhaps done.
	Apply(ctx context.Context, c Change) (at uint64, err error)
	// Reload makes Next look at everything again, also where nothing has told of a change. The Update that has what was
	// there when Reload was called, or something newer, is the first with Through >= at.
	Reload() (at uint64)
	// Place is where the object is kept, as a slash-separated path. A fault of that place, or of one above it, concerns the
	// object: it may still be there though no Update has it.
	Place(id ID) string
	// Close ends Next and frees everything.
	Close() error
}

package meta

import (
	"context"
	"fmt"

	"github.com/kateway/kateway/internal/errs"
)

// Topics answers where a topic lies: registered ones by the directory, others, where that is allowed, by open mode.
type Topics struct {
	dir  *Directory
	open *Open
}

// NewTopics asks the directory first. open makes topics on first use; nil: what is not registered does not exist.
func NewTopics(d *Directory, open *Open) *Topics {
	if open != nil {
		d.onGone(open.Forget)
	}
	return &Topics{d, open}
}

// Use answers the topic's name in the store. A registered topic costs one lookup. Kinds: UnknownTopic; Unavailable while
// nothing is known of any topic; those of Open.Use.
func (t *Topics) Use(ctx context.Context, topic Topic) (place string, err error) {
	if r := t.dir.Snapshot().Topic(topic); r != nil {
		return r.Place(), nil
	}
	select {
	case <-t.dir.Loaded():
	default:
		return "", fmt.Errorf("topic %s: meta has not been read yet; try again soon: %w", topic, errs.Unavailable)
	}
	// Looked up again: it may have been registered between the two looks.
	if r := t.dir.Snapshot().Topic(topic); r != nil {
		return r.Place(), nil
	}
	if t.open == nil {
		return "", fmt.Errorf("topic %s is not registered: %w", topic, errs.UnknownTopic)
	}
	return t.open.Use(ctx, topic)
}

// Loaded reports whether it is known which topics are registered.
func (t *Topics) Loaded() bool {
	select {
	case <-t.dir.Loaded():
		return true
	default:
		return false
	}
}

// Reset drops what open mode knows of all topics: somebody may have deleted some.
func (t *Topics) Reset() {
	if t.open != nil {
		t.open.Reset()
	}
}

// Forget drops what open mode knows of the topic: it turned out to be gone.
func (t *Topics) Forget(topic Topic) {
	if t.open != nil {
		t.open.Forget(topic)
	}
}

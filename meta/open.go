package meta

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// MaxOpenTopics is how many topics open mode makes on first use.
const MaxOpenTopics = 1000

// Open is the directory of open mode: every topic may be used, and one that is not there is made on first use, up to
// MaxOpenTopics. Its methods may be called concurrently.
type Open struct {
	admin store.Admin
	make  store.Topic // what a new topic is like; Name is filled in

	mu    sync.RWMutex
	known map[Topic]string // topics seen in the store -> name there
	sem   chan struct{}    // one look into the store at a time
}

// NewOpen looks topics up in admin and makes new ones like the template.
func NewOpen(admin store.Admin, template store.Topic) *Open {
	return &Open{admin: admin, make: template, known: map[Topic]string{}, sem: make(chan struct{}, 1)}
}

// Use answers the topic's name in the store, after making it there if need be. A known topic costs a map read.
// Kinds: Conflict where the store takes another topic's name for the same; Denied over MaxOpenTopics; those of the store.
func (o *Open) Use(ctx context.Context, t Topic) (string, error) {
	o.mu.RLock()
	name, ok := o.known[t]
	o.mu.RUnlock()
	if ok {
		return name, nil
	}
	select {
	case o.sem <- struct{}{}:
		defer func() { <-o.sem }()
	case <-ctx.Done():
		return "", fmt.Errorf("topic %s: waiting to look it up: %w", t, errs.Unavailable)
	}
	if err := o.find(ctx, t); err != nil {
		return "", err
	}
	return t.Store(), nil
}

// Forget drops what is known of the topic: it turned out to be gone.
func (o *Open) Forget(t Topic) {
	o.mu.Lock()
	delete(o.known, t)
	o.mu.Unlock()
}

// Reset drops what is known of all topics.
func (o *Open) Reset() {
	o.mu.Lock()
	clear(o.known)
	o.mu.Unlock()
}

func (o *Open) find(ctx context.Context, t Topic) error {
	o.mu.RLock()
	_, ok := o.known[t]
	o.mu.RUnlock()
	if ok {
		return nil // another request found it while we waited
	}
	topics, err := o.admin.Topics(ctx)
	if err != nil {
		return fmt.Errorf("topic %s: %w", t, err)
	}
	name := t.Store()
	ours := 0
	for _, s := range topics {
		if s.Name == name {
			o.learn(t)
			return nil
		}
		if isOurs(s.Name) {
			ours++
		}
	}
	if ours >= MaxOpenTopics {
		return fmt.Errorf("topic %s: open mode makes at most %d topics: %w", t, MaxOpenTopics, errs.Denied)
	}
	want := o.make
	want.Name = name
	if err := o.admin.CreateTopic(ctx, want); err != nil && !errors.Is(err, store.ErrExists) {
		return fmt.Errorf("topic %s: making it: %w", t, err)
	}
	o.learn(t)
	return nil
}

func (o *Open) learn(t Topic) {
	o.mu.Lock()
	o.known[t] = t.Store()
	o.mu.Unlock()
}

// isOurs reports whether a topic of the store has the form of a name that [Topic.Store] makes.
func isOurs(name string) bool {
	part := strings.Split(name, ".")
	if len(part) != 3 {
		return false
	}
	_, err := ParseTopic(part[0], part[1], part[2])
	return err == nil
}

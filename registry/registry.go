// Package registry knows which gateways live, and lets one of them at a time do a duty that must not be done twice.
// Package registrytest proves it on every implementation.
package registry

import (
	"context"
	"errors"
	"time"
)

// ErrKeep is the cause of the end of Announce's context when somebody else of the same id takes over: we stay listed until
// our session ends, or the other one is listed.
var ErrKeep = errors.New("another process is listed in our place")

// Instance is a gateway as it tells of itself. An address is host:port as others reach it, "" where the role is off.
type Instance struct {
	ID      string    `json:"id"`
	Pub     string    `json:"pub,omitempty"`
	Sub     string    `json:"sub,omitempty"`
	Man     string    `json:"man,omitempty"`
	Peer    string    `json:"peer,omitempty"`
	Version string    `json:"version"`
	Host    string    `json:"host"`
	Started time.Time `json:"started"`
	Load    Load      `json:"load"`
}

// Load is how busy a gateway is.
type Load struct {
	PublishPerSecond float64 `json:"publish_per_second"`
	Streams          int     `json:"streams"`
}

// Registry is the list of live gateways. All methods may be called concurrently.
type Registry interface {
	// Announce keeps us listed until ctx ends, and then takes us off the list before it returns; it waits for a registry that
	// is away, however long. self is called now and then for what to tell; its ID never changes. After the session with the
	// registry was lost we are listed again within 5 s of its return, also where a node of our lost session is still
	// there. Conflict: another live gateway has this id. It answers nil when ctx ended. With the cause ErrKeep we stay on the list.
	Announce(ctx context.Context, self func() Instance) error
	// Watch tells of the list, sorted by id: at once, and whenever it has changed (a changed Load alone may be told late). A
	// receiver that is slow gets the newest only. While the registry is away the last list stays. The channel is closed when ctx ends.
	Watch(ctx context.Context) <-chan []Instance
	// Lead waits until the duty is ours and calls do with a context that ends when it is no longer, at the latest before
	// anybody else can have it (by the clocks of both running at the same rate). When do returns, the duty is given up.
	// epoch grows with each holder: what guards the duty's effects refuses a lower one. Lead answers do's error, or
	// ctx.Err() when ctx ended before. It calls do once.
	Lead(ctx context.Context, duty string, do func(ctx context.Context, epoch int64) error) error
}

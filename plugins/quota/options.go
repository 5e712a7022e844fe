package quota

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/kateway/kateway/meta"
)

// Limits bound what one app, key, topic or address may do; 0 is no limit.
type Limits struct {
	Requests float64       `yaml:"requests_per_second"`
	Messages float64       `yaml:"messages_per_second"` // of publishes
	Bytes    int64         `yaml:"bytes_per_second"`    // of their values and keys
	Burst    time.Duration `yaml:"burst"`               // how much of a rate may come at once: so much time's worth
	Calls    int           `yaml:"connections"`         // requests under way, streams among them
	Streams  int           `yaml:"streams"`
	InFlight int64         `yaml:"in_flight_bytes"` // of the bodies of requests under way
	Topics   int           `yaml:"topics"`          // of an app, where topics are made by their first use
	Groups   int           `yaml:"groups"`          // of an app, with clients here
	Jobs     int           `yaml:"jobs"`            // of an app; kept for when there are jobs
}

// Options are the plugin's in the configuration.
type Options struct {
	Default Limits            `yaml:"default"` // of an app that has none of its own
	Classes map[string]Limits `yaml:"classes"` // the same of the apps of a class, before Default
	Key     Limits            `yaml:"key"`     // of each key
	Topic   Limits            `yaml:"topic"`   // of each topic
	Address Limits            `yaml:"address"` // of each client address; of IPv6, each network of 64 bits
}

const (
	defaultBurst = time.Second
	maxBurst     = time.Hour
)

// check answers every fault, joined.
func (o *Options) check() error {
	faults := []error{o.Default.check("default", true), o.Key.check("key", false), o.Topic.check("topic", false), o.Address.check("address", false)}
	classes := []string{meta.ClassPremium, meta.ClassStandard, meta.ClassBestEffort}
	for name, l := range o.Classes {
		if !slices.Contains(classes, name) {
			faults = append(faults, fmt.Errorf("classes: %.40q is none of %v", name, classes))
		}
		faults = append(faults, l.check("classes: "+name, true))
	}
	return errors.Join(faults...)
}

func (l *Limits) check(whose string, app bool) error {
	var faults []error
	for name, v := range map[string]float64{
		"requests_per_second": l.Requests, "messages_per_second": l.Messages, "bytes_per_second": float64(l.Bytes), "connections": float64(l.Calls),
		"streams": float64(l.Streams), "in_flight_bytes": float64(l.InFlight), "topics": float64(l.Topics), "groups": float64(l.Groups), "jobs": float64(l.Jobs),
	} {
		if v < 0 || math.IsNaN(v) || math.IsInf(v, 0) {
			faults = append(faults, fmt.Errorf("%s: %s must be a number that is not negative; 0 is no limit", whose, name))
		}
	}
	if l.Burst < 0 || l.Burst > maxBurst {
		faults = append(faults, fmt.Errorf("%s: burst %v is not between 0 and %v", whose, l.Burst, maxBurst))
	}
	if !app && (l.Topics != 0 || l.Groups != 0 || l.Jobs != 0) {
		faults = append(faults, fmt.Errorf("%s: topics, groups and jobs are limits of an app", whose))
	}
	return errors.Join(faults...)
}

// of are the limits of an app: its own, else those of its class, else the default. a is nil for one that is not registered.
func (o *Options) of(a *meta.App) Limits {
	l := o.Default
	if a == nil {
		over(&l, o.Classes[meta.ClassStandard])
		return l
	}
	over(&l, o.Classes[a.Class])
	m := &a.Limits
	over(&l, Limits{
		Requests: m.RequestsPerSecond, Messages: m.MessagesPerSecond, Bytes: m.BytesPerSecond, Burst: time.Duration(m.Burst),
		Calls: m.Connections, Streams: m.Streams, InFlight: m.InFlightBytes, Topics: m.Topics, Groups: m.Groups, Jobs: m.Jobs,
	})
	return l
}

// over puts what is set of other over l.
func over(l *Limits, other Limits) {
	set(&l.Requests, other.Requests)
	set(&l.Messages, other.Messages)
	set(&l.Bytes, other.Bytes)
	set(&l.Burst, other.Burst)
	set(&l.Calls, other.Calls)
	set(&l.Streams, other.Streams)
	set(&l.InFlight, other.InFlight)
	set(&l.Topics, other.Topics)
	set(&l.Groups, other.Groups)
	set(&l.Jobs, other.Jobs)
}

func set[T comparable](to *T, v T) {
	var zero T
	if v != zero {
		*to = v
	}
}

package audit

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/plugins"
)

// Options are the plugin's.
type Options struct {
	File       string   `yaml:"file"`        // "": audit.log in the plugin's own directory
	MaxSizeMB  int      `yaml:"max_size_mb"` // of a file; a larger one is put aside and a new one begun
	MaxFiles   int      `yaml:"max_files"`   // that were put aside; 0: all
	MaxAgeDays int      `yaml:"max_age_days"`
	Compress   bool     `yaml:"compress"` // those that were put aside
	Events     []string `yaml:"events"`   // of publish, subscribe, settle, admin; none: all
	Topic      string   `yaml:"topic"`    // app/topic/ver: records go there, too
}

// events are what records tell of.
var events = []string{"publish", "subscribe", "settle", "admin"} // read only

const (
	admin   = 3 // its index, behind those of plugins' ops
	nEvents = 4
)

// Kind is the plugin as the configuration has it.
func Kind() plugins.Kind {
	return plugins.Kind{Read: func(o plugins.Options) (plugins.Make, error) {
		opts := Options{MaxSizeMB: 100, MaxFiles: 10}
		if err := o.Into(&opts); err != nil {
			return nil, err
		}
		topic, err := opts.check()
		if err != nil {
			return nil, err
		}
		return func(_ context.Context, e plugins.Env) (plugins.Plugin, error) { return newPlugin(opts, topic, e) }, nil
	}}
}

// check answers every fault, joined, and the topic that is meant.
func (o *Options) check() (meta.Topic, error) {
	var faults []error
	for name, v := range map[string]int{"max_size_mb": o.MaxSizeMB - 1, "max_files": o.MaxFiles, "max_age_days": o.MaxAgeDays} {
		if v < 0 {
			faults = append(faults, fmt.Errorf("%s is too small", name))
		}
	}
	for _, e := range o.Events {
		if !slices.Contains(events, e) {
			faults = append(faults, fmt.Errorf("events: there is no %q; there is publish, subscribe, settle, admin", e))
		}
	}
	var topic meta.Topic
	if o.Topic != "" {
		var err error
		if topic, err = meta.SplitTopic(o.Topic); err != nil {
			faults = append(faults, fmt.Errorf("topic: %w", err))
		}
	}
	return topic, errors.Join(faults...)
}

// wants are the events that are recorded, by op.
func (o *Options) wants() (w [nEvents]bool) {
	for i, e := range events {
		w[i] = len(o.Events) == 0 || slices.Contains(o.Events, e)
	}
	return w
}

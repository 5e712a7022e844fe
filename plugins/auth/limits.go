package auth

import (
	"slices"

	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/plugins"
)

// limits are what a token is good for, of all that its app may.
type limits struct {
	ops    []string // opPub, opSub
	topics []string // as <app>/<topic>/<version>; nil: all
	groups []string // "" is reading without one; nil: all
}

// What a token may be for.
const (
	opPub = "pub"
	opSub = "sub"
)

// opOf is what a token has to be for.
func opOf(op plugins.Op) string {
	switch op {
	case plugins.Publish:
		return opPub
	case plugins.Subscribe, plugins.Settle:
		return opSub
	}
	return ""
}

func (l *limits) allow(op plugins.Op, t meta.Topic, group string) bool {
	switch {
	case !slices.Contains(l.ops, opOf(op)):
		return false
	case l.topics != nil && !slices.Contains(l.topics, path(t)):
		return false
	case l.groups != nil && op != plugins.Publish && !slices.Contains(l.groups, group):
		return false
	}
	return true
}

// route is plugins.Call's: a token that is for some topics has messages go to those alone, whoever sends them there.
func (l *limits) route(c *plugins.Call) func(topic, ver string) error {
	if l.topics == nil {
		return nil
	}
	app := c.App
	return func(topic, ver string) error {
		if !l.allow(plugins.Publish, meta.Topic{App: app, Name: topic, Ver: ver}, "") {
			return errNotFor(app)
		}
		return nil
	}
}

// path is the topic as tokens name it.
func path(t meta.Topic) string { return t.App + "/" + t.Name + "/" + t.Ver }

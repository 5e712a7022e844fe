// Package meta knows which topics there are and what they are called.
package meta

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/kateway/kateway/internal/errs"
)

// The rules of docs/api.md, "Names".
var (
	appRule   = regexp.MustCompile(`^[A-Za-z0-9-]{1,32}$`)
	topicRule = regexp.MustCompile(`^[A-Za-z0-9_-]{1,100}$`)
	verRule   = regexp.MustCompile(`^[A-Za-z0-9-]{1,16}$`)
	groupRule = regexp.MustCompile(`^[A-Za-z0-9_-]{1,48}$`)
)

// Topic is a topic as clients name it.
type Topic struct{ App, Name, Ver string }

// ParseTopic checks the three parts of a topic's name. Kind InvalidName, with the rule in the text.
func ParseTopic(app, name, ver string) (Topic, error) {
	if err := CheckApp(app); err != nil {
		return Topic{}, err
	}
	if err := check("topic", name, topicRule); err != nil {
		return Topic{}, err
	}
	if err := check("version", ver, verRule); err != nil {
		return Topic{}, err
	}
	return Topic{app, name, ver}, nil
}

// CheckApp checks an app's name.
func CheckApp(app string) error { return check("app", app, appRule) }

// CheckGroup checks a group's name.
func CheckGroup(group string) error { return check("group", group, groupRule) }

// CheckClient checks the name that a client gives itself.
func CheckClient(client string) error { return check("client", client, groupRule) }

func check(what, s string, rule *regexp.Regexp) error {
	if rule.MatchString(s) {
		return nil
	}
	if len(s) > 128 {
		s = s[:128] + "..."
	}
	return fmt.Errorf("%s %q must match %s: %w", what, s, rule, errs.InvalidName)
}

// Store is the topic's name in the store.
func (t Topic) Store() string { return t.App + "." + t.Name + "." + t.Ver }

// SplitTopic reads a topic in the form of String: <app>/<topic>/<version>. Kinds InvalidParam for another form, InvalidName.
func SplitTopic(s string) (Topic, error) {
	parts := strings.Split(s, "/")
	if len(parts) != 3 {
		return Topic{}, fmt.Errorf("%.100q: must be <app>/<topic>/<version>: %w", s, errs.InvalidParam)
	}
	return ParseTopic(parts[0], parts[1], parts[2])
}

func (t Topic) String() string { return t.App + "/" + t.Name + "/" + t.Ver }

// Group is a group on a topic as clients name it.
type Group struct {
	Subscriber string // the app that it belongs to
	Name       string
	Topic      Topic
}

// Store is the name of the consumer group in the store: one per group and topic, so that topics never rebalance each other.
func (g Group) Store() string { return g.Subscriber + "." + g.Name + "." + g.Topic.Store() }

// ParseGroup reads what Store wrote. ok is false for the name of another kind of group.
func ParseGroup(inStore string) (g Group, ok bool) {
	parts := strings.Split(inStore, ".")
	if len(parts) != 5 {
		return Group{}, false
	}
	t, err := ParseTopic(parts[2], parts[3], parts[4])
	if err != nil || CheckApp(parts[0]) != nil || CheckGroup(parts[1]) != nil {
		return Group{}, false
	}
	return Group{parts[0], parts[1], t}, true
}

// Queue is a topic that belongs to one group, for messages that it could not do.
type Queue string

// The queues of a group. Topic and consumer group have names that end in them.
const (
	Retry Queue = "retry" // to be delivered to the group again, later
	Dead  Queue = "dead"  // given up
)

// Queue names a queue of the group, as a topic in the store beside the group's topic, which lies at place, and as the
// consumer group that reads it.
func (g Group) Queue(q Queue, place string) (topic, group string) {
	cluster, _, other := strings.Cut(place, ":")
	topic = g.Topic.Store() + "." + g.Subscriber + "." + g.Name + "." + string(q)
	if other {
		topic = PlaceIn(cluster, topic)
	}
	return topic, g.Store() + "." + string(q)
}

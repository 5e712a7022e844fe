// Package meta knows which topics there are and what they are called.
package meta

import (
	"fmt"
	"regexp"

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

func (t Topic) String() string { return t.App + "/" + t.Name + "/" + t.Ver }

// GroupInStore is the name of the consumer group in the store: one per group and topic, so that topics never rebalance each other.
func GroupInStore(subscriber, group string, t Topic) string {
	return subscriber + "." + group + "." + t.Store()
}

// RetryQueue is the topic in the store that is the group's retry queue on the topic, without a cluster.
func RetryQueue(subscriber, group string, t Topic) string {
	return t.Store() + "." + subscriber + "." + group + ".retry"
}

// DeadQueue is the same of its dead queue.
func DeadQueue(subscriber, group string, t Topic) string {
	return t.Store() + "." + subscriber + "." + group + ".dead"
}

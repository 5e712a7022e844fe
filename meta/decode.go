package meta

import (
	"fmt"

	"github.com/go-json-experiment/json"

	"github.com/kateway/kateway/internal/errs"
)

// encode writes a record as it is kept: one line of JSON, the same bytes for the same content. It refuses a record that
// would not be read again.
func encode(r Record) ([]byte, error) {
	if err := r.Validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", r.ID(), err)
	}
	data, err := json.Marshal(r, json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", r.ID(), errs.InvalidBody, err)
	}
	return data, nil
}

// decode reads an object. Fields that it does not know are left out: a newer version may have written them. Everything else
// must be right: types, the name, what Validate looks at.
func decode(id ID, data []byte) (Record, error) {
	r := blank(id.Kind)
	if r == nil {
		return nil, fmt.Errorf("%s: there is no kind %q: %w", id, id.Kind, errs.InvalidBody)
	}
	if err := json.Unmarshal(data, r); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", id, errs.InvalidBody, err)
	}
	if is := r.ID(); is != id {
		return nil, fmt.Errorf("%s: holds the object of %.300s: %w", id, is, errs.InvalidBody)
	}
	if err := r.Validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", id, err)
	}
	if t, ok := r.(*TopicRecord); ok {
		t.gather()
	}
	return r, nil
}

// gather puts the parts of the topic's name into one string, so that who compares them reads one place of memory and not
// three, and makes its place.
func (t *TopicRecord) gather() {
	whole := t.Topic().Store()
	t.App, t.Name, t.Ver = whole[:len(t.App)], whole[len(t.App)+1:len(whole)-len(t.Ver)-1], whole[len(whole)-len(t.Ver):]
	if t.place = t.Place(); t.place == whole {
		t.place = whole
	}
}

// blank is an empty record of the kind; nil where there is no such kind.
func blank(kind Kind) Record {
	switch kind {
	case KindApp:
		return new(App)
	case KindTopic:
		return new(TopicRecord)
	case KindSubscription:
		return new(Subscription)
	case KindCluster:
		return new(Cluster)
	case KindAdminKey:
		return new(AdminKey)
	case KindOption:
		return new(Option)
	case KindSecret:
		return new(Secret)
	case KindSchema:
		return new(Schema)
	}
	return nil
}

package meta

import (
	"fmt"
	"slices"
	"time"
)

const (
	// MaxSchemas is how many versions of a schema a topic has at most.
	MaxSchemas = 100
	// maxSchemaText is the longest text of a schema in bytes; escaped it still fits an object.
	maxSchemaText = 48 << 10
)

// Schema is one version of what the messages of a topic may be. Versions are never changed but for Compatibility of the
// newest, so that what messages name by id keeps its meaning. The newest one counts; where its Type is "", the topic has no
// schema since then.
type Schema struct {
	App           string    `json:"app"`
	Name          string    `json:"topic"`
	Ver           string    `json:"ver"`
	Version       int       `json:"version"` // from 1 on
	SchemaID      uint32    `json:"id"`      // by which messages name it in Confluent's wire format; unique within the topic
	Type          string    `json:"type"`
	Text          string    `json:"text"`
	Compatibility string    `json:"compatibility"` // of the next version to this one
	Created       time.Time `json:"created"`
}

// Topic is the topic that it is for.
func (s *Schema) Topic() Topic { return Topic{s.App, s.Name, s.Ver} }

// ID is Record's.
func (s *Schema) ID() ID {
	return ID{KindSchema, fmt.Sprintf("%s.%05d", s.Topic().Store(), s.Version)}
}

// Validate is Record's. What the text says is not looked at here.
func (s *Schema) Validate() error {
	var f faults
	f.topic(s.Topic())
	f.unless(s.Version >= 1 && s.Version <= 99_999, "version must be 1 to 99999, not %d", s.Version)
	if s.Type == "" {
		f.unless(s.Text == "" && s.Compatibility == "", "a version that ends the schema has neither text nor compatibility")
		return f.err()
	}
	f.unless(slices.Contains([]string{"json", "avro", "protobuf"}, s.Type), "type %.40q must be json, avro or protobuf", s.Type)
	f.unless(slices.Contains([]string{"backward", "forward", "full", "none"}, s.Compatibility),
		"compatibility %.40q must be backward, forward, full or none", s.Compatibility)
	f.unless(s.Text != "", "text must not be empty")
	f.unless(len(s.Text) <= maxSchemaText, "text has %d bytes, %d at most", len(s.Text), maxSchemaText)
	return f.err()
}

// Schemas are the versions of the topic's schema, the newest last; none where it never had one. It is asked for by every
// message that is checked: no allocation.
func (s *Snapshot) Schemas(t Topic) []*Schema {
	list, _ := s.schemas.get(t)
	return list
}

// link enters a version among those of its topic.
func (e *edition) linkSchema(r *Schema) {
	list, _ := e.schemas.get(r.Topic())
	at, _ := slices.BinarySearchFunc(list, r.Version, func(s *Schema, v int) int { return s.Version - v })
	e.schemas.set(r.Topic(), slices.Insert(slices.Clone(list), at, r)) // a copy: snapshots share lists
}

func (e *edition) unlinkSchema(r *Schema) {
	list, _ := e.schemas.get(r.Topic())
	list = slices.DeleteFunc(slices.Clone(list), func(s *Schema) bool { return s.Version == r.Version })
	if len(list) == 0 {
		e.schemas.remove(r.Topic())
		return
	}
	e.schemas.set(r.Topic(), list)
}

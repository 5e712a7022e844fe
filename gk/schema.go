package gk

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"strconv"

	"github.com/kateway/kateway/meta"
)

// maxSchemaFile is how much of a file is read; the gateway takes less.
const maxSchemaFile = 1 << 20

type schemaLs struct{ topicPath }

func (c *schemaLs) Run(ctx context.Context, t *tool) error {
	keep := func(meta.Schema) bool { return true }
	return list(t, t.items(ctx, c.path()+"/schema/versions", nil), "VERSION ID TYPE COMPATIBILITY CREATED", keep, func(s meta.Schema) []any {
		return []any{s.Version, s.SchemaID, s.Type, s.Compatibility, s.Created}
	})
}

type schemaGet struct {
	topicPath
	Version int    `placeholder:"N" help:"This version of it."`
	ID      uint32 `name:"id" placeholder:"N" help:"The one that messages name by this id."`
}

func (c *schemaGet) Run(ctx context.Context, t *tool) error {
	of := url.Values{}
	switch {
	case c.Version != 0 && c.ID != 0:
		return usagef("--version and --id: give one of them")
	case c.Version != 0:
		of.Set("version", strconv.Itoa(c.Version))
	case c.ID != 0:
		of.Set("id", strconv.FormatUint(uint64(c.ID), 10))
	}
	a, err := t.man.get(ctx, c.path()+"/schema", of)
	if err != nil {
		return err
	}
	return t.out.object(a)
}

type schemaSet struct {
	topicPath
	File          string  `arg:"" help:"The schema; - is standard input. What it is written in is told by its name: .avsc is Avro, .proto Protobuf, else JSON Schema."`
	Type          *string `placeholder:"TYPE" help:"json, avro or protobuf."`
	Compatibility *string `placeholder:"MODE" help:"What the version after this one is to be: backward, forward, full or none."`
	ID            *uint32 `name:"id" placeholder:"N" help:"By which messages name it in Confluent's wire format, where another registry has given it one."`
	match
}

func (c *schemaSet) Run(ctx context.Context, t *tool) error {
	text, err := readFile(t, c.File)
	if err != nil {
		return err
	}
	kind := "json"
	switch path.Ext(c.File) {
	case ".avsc":
		kind = "avro"
	case ".proto":
		kind = "protobuf"
	}
	b := body{"type": kind, "text": text}
	put(b, "type", c.Type)
	put(b, "compatibility", c.Compatibility)
	put(b, "id", c.ID)
	return t.call(ctx, change(http.MethodPut, c.path()+"/schema", b, c.match), "topic "+c.Topic.String()+" has this schema")
}

// readFile is the text of a file, or of standard input.
func readFile(t *tool, name string) (string, error) {
	from := t.in
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return "", usagef("%v", err)
		}
		defer func() { _ = f.Close() }()
		from = f
	}
	b, err := io.ReadAll(io.LimitReader(from, maxSchemaFile+1))
	if err != nil {
		return "", fmt.Errorf("reading the schema: %w", err)
	}
	if len(b) > maxSchemaFile {
		return "", usagef("%s: is larger than any schema may be", name)
	}
	return string(b), nil
}

type schemaRm struct {
	topicPath
	History bool `help:"Forget all versions too: ids in messages that are stored can then not be found any more."`
	match
}

func (c *schemaRm) Run(ctx context.Context, t *tool) error {
	r := removal(c.path()+"/schema", c.match)
	if c.History {
		r.query = url.Values{"history": {"1"}}
	}
	return t.call(ctx, r, "topic "+c.Topic.String()+" has no schema")
}

package manager_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/manager"
)

const (
	schemaPath = ordersPath + "/schema"
	first      = `{"type":"object","required":["id"],"additionalProperties":false,"properties":{"id":{"type":"integer"}}}`
	wider      = `{"type":"object","required":["id"],"additionalProperties":false,"properties":{"id":{"type":"integer"},"name":{"type":"string"}}}`
	other      = `{"type":"object","required":["no"],"properties":{"no":{"type":"string"}}}`
)

// of is the body that registers a schema.
func of(text, more string) string {
	b, _ := json.Marshal(text)
	return `{"type":"json","text":` + string(b) + more + `}`
}

func withTyped(t *testing.T) *fixture {
	f := withShop(t, nil)
	f.must(201, "POST", "/v1/topics", `{"app":"shop","topic":"orders","ver":"v1","partitions":1}`)
	return f
}

func TestSchemaFromBeginToEnd(t *testing.T) {
	f := withTyped(t)
	f.ask("GET", schemaPath, "").problem(t, errs.NotFound, "has no schema")
	f.ask("DELETE", schemaPath, "").problem(t, errs.NotFound)
	r := f.ask("PUT", schemaPath, of(first, ""))
	if got := r.want(t, 201).fields("app", "topic", "ver", "version", "id", "type", "compatibility"); got != "shop orders v1 1 1 json backward" {
		t.Error(got)
	}
	if r.Header().Get("Location") != schemaPath || r.etag() == "" {
		t.Error(r.Header())
	}
	if again := f.ask("PUT", schemaPath, of(first, "")); again.want(t, 200).fields("version") != "1" || again.etag() != r.etag() {
		t.Errorf("the same again is %s", again.Body)
	}
	refused := f.ask("PUT", schemaPath, of(other, ""))
	refused.problem(t, errs.Conflict, "not backward compatible with version 1")
	if body := refused.Body.String(); !strings.Contains(body, `"errors":[{"path":"/no","message":"who reads by the new schema`) {
		t.Error(body)
	}
	f.ask("PUT", schemaPath, of(wider, `,"compatibility":"full"`), "If-Match", `"other"`).problem(t, errs.PreconditionFailed)
	second := f.ask("PUT", schemaPath, of(wider, `,"compatibility":"full"`), "If-Match", r.etag())
	if got := second.want(t, 200).fields("version", "id", "compatibility"); got != "2 2 full" {
		t.Error(got)
	}
	// What counts is what the version that is there asks for, not what the next one says of itself.
	f.ask("PUT", schemaPath, of(first, `,"compatibility":"none"`)).problem(t, errs.Conflict, "full")
	if got := f.must(200, "PUT", schemaPath, of(wider, `,"compatibility":"none"`)).fields("version", "compatibility"); got != "2 none" {
		t.Error(got)
	}
	if got := f.must(200, "PUT", schemaPath, of(other, `,"id":700`)).fields("version", "id", "compatibility"); got != "3 700 none" {
		t.Error(got)
	}
	f.ask("PUT", schemaPath, of(first, `,"id":2`)).problem(t, errs.Conflict, "id 2 is that of version 2")
	for query, want := range map[string]string{"": "3 700", "?version=1": "1 1", "?id=2": "2 2", "?id=700&version=3": "3 700"} {
		if got := f.must(200, "GET", schemaPath+query, "").fields("version", "id"); got != want {
			t.Errorf("%s: %s", query, got)
		}
	}
	f.ask("GET", schemaPath+"?id=9", "").problem(t, errs.NotFound)
	f.ask("GET", schemaPath+"?version=0", "").problem(t, errs.InvalidParam)
	page := f.must(200, "GET", schemaPath+"/versions?limit=2", "")
	if got := fmt.Sprint(page.names(t, "version")); got != "[1 2]" || page["next"] != "00002" || strings.Contains(fmt.Sprint(page), "integer") {
		t.Errorf("%s, %v", got, page)
	}
	f.must(204, "DELETE", schemaPath, "")
	f.ask("GET", schemaPath, "").problem(t, errs.NotFound)
	f.must(200, "GET", schemaPath+"?id=700", "") // what messages name is still found
	if got := f.must(201, "PUT", schemaPath, of(first, "")).fields("version", "id"); got != "5 701" {
		t.Error(got)
	}
	f.must(204, "DELETE", schemaPath+"?history=1", "")
	f.ask("GET", schemaPath+"?id=1", "").problem(t, errs.NotFound)
	if n := len(f.must(200, "GET", schemaPath+"/versions", "").names(t, "version")); n != 0 {
		t.Error(n)
	}
}

func TestSchemasThatCantBeRegistered(t *testing.T) {
	f := withTyped(t)
	for _, c := range []struct {
		path, body string
		kind       errs.Kind
		words      string
	}{
		{"/v1/topics/shop/none/v1/schema", of(first, ""), errs.UnknownTopic, "not registered"},
		{"/v1/topics/shop/a.b/v1/schema", of(first, ""), errs.InvalidName, ""},
		{schemaPath, `{"text":"{}"}`, errs.InvalidBody, "json, avro and protobuf"},
		{schemaPath, of("{", ""), errs.InvalidBody, "json schema"},
		{schemaPath, of(first, `,"compatibility":"some"`), errs.InvalidBody, "backward, forward, full or none"},
		{schemaPath, of(first, `,"version":7`), errs.InvalidBody, "version"},
		{schemaPath, of(first, `,"mode":7`), errs.InvalidBody, "mode"},
		{schemaPath, of(`{"description":"`+strings.Repeat("x", 50<<10)+`"}`, ""), errs.TooLarge, ""},
		{schemaPath, `{"type":"protobuf","text":"syntax = \"proto3\"; import \"a.proto\"; message M {}"}`, errs.InvalidBody, "a.proto"},
	} {
		f.ask("PUT", c.path, c.body).problem(t, c.kind, c.words)
	}
	f.ask("GET", schemaPath, "").problem(t, errs.NotFound)
}

// The largest schema fits an object of meta, also where every byte of it is escaped.
func TestLargestSchema(t *testing.T) {
	f := withTyped(t)
	f.must(201, "PUT", schemaPath, of(`{"description":"`+strings.Repeat("x", 48<<10-18)+`"}`, ""))
}

// A topic takes its schemas along when it is deleted, and one that is made anew has none.
func TestSchemaGoesWithItsTopic(t *testing.T) {
	f := withTyped(t)
	f.must(201, "PUT", schemaPath, of(first, ""))
	f.must(204, "DELETE", ordersPath, "")
	f.ask("GET", schemaPath, "").problem(t, errs.UnknownTopic)
	f.must(201, "POST", "/v1/topics", `{"app":"shop","topic":"orders","ver":"v1","partitions":1}`)
	f.ask("GET", schemaPath+"?id=1", "").problem(t, errs.NotFound)
}

// In open mode the topic must be there too.
func TestSchemaInOpenMode(t *testing.T) {
	f := newFixture(t, func(c *manager.Config) { c.Open = true })
	f.ask("PUT", schemaPath, of(first, "")).problem(t, errs.UnknownTopic)
	f.must(201, "POST", "/v1/topics", `{"app":"shop","topic":"orders","ver":"v1","partitions":1}`)
	f.must(201, "PUT", schemaPath, of(first, ""))
}

func TestSchemasAreBounded(t *testing.T) {
	f := withTyped(t)
	f.must(201, "PUT", schemaPath, of(`{"title":"0"}`, `,"compatibility":"none"`))
	for i := 1; i < 100; i++ {
		f.must(200, "PUT", schemaPath, of(fmt.Sprintf(`{"title":"%d"}`, i), ""))
	}
	f.ask("PUT", schemaPath, of(`{"title":"100"}`, "")).problem(t, errs.Conflict, "no room for more")
	f.must(204, "DELETE", schemaPath+"?history=1", "")
	f.must(201, "PUT", schemaPath, of(`{"title":"100"}`, ""))
}

package gk

import (
	"os"
	"path/filepath"
	"testing"
)

func TestSchemaCommands(t *testing.T) {
	m := newManaged(t)
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	gk := func(stdin string, args ...string) outcome {
		return invoke(t, []string{"KATEWAY_MAN=" + m.url, "KATEWAY_ADMIN_KEY=" + m.key}, stdin, args...)
	}
	gk("", "apps", "add", "shop").contains(t, 0)
	gk("", "topics", "add", "shop/orders/v1", "--partitions", "1").contains(t, 0)
	const path = "shop/orders/v1"
	gk("", "topics", "schema", "set", path, file("a.json", `{"type":"string"}`)).contains(t, 0, `"type"`)
	gk("", "topics", "schema", "set", path, file("b.json", `{"type":"object"}`)).contains(t, 1, "not backward compatible", "a string is possible")
	gk(`{"type":["string","null"]}`, "topics", "schema", "set", path, "-", "--compatibility", "none", "--id", "70").contains(t, 0)
	gk("", "topics", "schema", "set", path, file("o.proto", `syntax = "proto3"; message M { int32 a = 1; }`)).contains(t, 0)
	gk("", "topics", "schema", "ls", path).contains(t, 0, "json", "70", "protobuf", "71")
	gk("", "topics", "schema", "get", path).contains(t, 0, "proto3")
	gk("", "topics", "schema", "get", path, "--id", "70").contains(t, 0, "null")
	gk("", "topics", "schema", "get", path, "--version", "1", "--id", "70").contains(t, 2, "one of them")
	gk("", "topics", "schema", "set", path, filepath.Join(dir, "none")).contains(t, 2, "none")
	gk("", "topics", "schema", "rm", path).contains(t, 0)
	gk("", "topics", "schema", "get", path).contains(t, 1, "has no schema")
	gk("", "topics", "schema", "rm", path, "--history").contains(t, 0)
	gk("", "topics", "schema", "get", path, "--version", "1").contains(t, 1, "not_found")
}

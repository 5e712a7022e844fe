package file_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/meta/file"
	"github.com/kateway/kateway/meta/metatest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, dir string) *file.Source {
	t.Helper()
	s, err := file.Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func write(t *testing.T, path string, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestSource(t *testing.T) {
	metatest.Run(t, metatest.Config{New: func(t *testing.T) metatest.Backend {
		dir := t.TempDir()
		path := func(id meta.ID) string { return filepath.Join(dir, string(id.Kind), id.Name+".json") }
		return metatest.Backend{
			Keeps: true,
			Open:  func(t *testing.T) meta.Source { return open(t, dir) },
			Edit: func(t *testing.T, id meta.ID, data []byte) {
				if data == nil {
					if err := os.Remove(path(id)); err != nil {
						t.Fatal(err)
					}
					return
				}
				write(t, path(id), "\n\t"+strings.ReplaceAll(string(data), ":", " : ")+"\n")
			},
			Spoil: func(t *testing.T, id meta.ID) func() {
				was, err := os.ReadFile(path(id))
				if err != nil {
					t.Fatal(err)
				}
				write(t, path(id), string(was[:len(was)/2]))
				return func() { write(t, path(id), string(was)) }
			},
		}
	}})
}

func app(name string) *meta.App { return &meta.App{Name: name, Class: meta.ClassStandard} }

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// until waits until the directory's state or snapshot is as wanted.
func until(t *testing.T, s *file.Source, what string, ok func(meta.Update) bool) meta.Update {
	t.Helper()
	for {
		u, err := s.Next(within(t))
		if err != nil {
			t.Fatalf("waiting for %s: %v", what, err)
		}
		if ok(u) {
			return u
		}
	}
}

// What is kept can be read and edited by people, and by nobody but the owner.
func TestFilesAreForPeople(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "meta")
	d := metatest.Directory(t, open(t, dir))
	if _, err := d.Put(within(t), app("shop"), meta.Absent); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "apps", "shop.json")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Split(string(text), "\n"); len(lines) < 8 || lines[1] != "\t\"app\": \"shop\"," || !strings.HasSuffix(string(text), "}\n") {
		t.Errorf("not for people:\n%s", text)
	}
	for path, mode := range map[string]os.FileMode{dir: 0o700, filepath.Dir(path): 0o700, path: 0o600, filepath.Join(dir, "lock"): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v; want %v", path, info.Mode(), err, mode)
		}
	}
	_, etag := d.Snapshot().Record(app("shop").ID())
	changed := d.Changed()
	write(t, path, strings.Replace(string(text), `"description": ""`, `"description": "sells"`, 1))
	select {
	case <-changed:
	case <-within(t).Done():
		t.Fatal("the edit was not picked up")
	}
	if a := d.Snapshot().App("shop"); a.Description != "sells" {
		t.Errorf("%+v", a)
	}
	if _, err := d.Put(within(t), app("shop"), etag); !errors.Is(err, errs.PreconditionFailed) {
		t.Errorf("an edit by hand was overwritten: %v", err)
	}
}

func TestOneProcessHasTheDirectory(t *testing.T) {
	dir := t.TempDir()
	first := open(t, dir)
	if _, err := file.Open(dir, slog.New(slog.DiscardHandler)); !errors.Is(err, errs.Conflict) || !strings.Contains(err.Error(), dir) {
		t.Errorf("a second one: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
}

// What lies in the directory besides objects does no harm.
func TestForeignFiles(t *testing.T) {
	dir := t.TempDir()
	if err := open(t, dir).Close(); err != nil {
		t.Fatal(err)
	}
	apps := filepath.Join(dir, "apps")
	write(t, filepath.Join(apps, "a.json"), `{"n":1}`)
	for _, name := range []string{".a.json.swp", "a.json~", "README", ".hidden.json", ".b.json.123tmp"} {
		write(t, filepath.Join(apps, name), "garbage")
	}
	write(t, filepath.Join(apps, "b c.json"), `{}`)
	write(t, filepath.Join(apps, "big.json"), `{"x":"`+strings.Repeat("x", 1<<20)+`"}`)
	write(t, filepath.Join(apps, "twice.json"), `{"a":1,"a":2}`)
	write(t, filepath.Join(dir, "stray.json"), `{}`)
	if err := os.Mkdir(filepath.Join(apps, "dir.json"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(apps, "pipe.json"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir)
	u, err := s.Next(within(t))
	if err != nil || len(u.Objects) != 1 || string(u.Objects[meta.ID{Kind: meta.KindApp, Name: "a"}]) != `{"n":1}` {
		t.Fatalf("%q, %v", u.Objects, err)
	}
	for _, name := range []string{"b c", "big", "twice", "dir", "pipe"} {
		if u.Faults["apps/"+name+".json"] == nil {
			t.Errorf("no fault for %s", name)
		}
	}
	if len(u.Faults) != 5 {
		t.Errorf("faults: %v", u.Faults)
	}
	if _, err := os.Stat(filepath.Join(apps, ".b.json.123tmp")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what a killed process left is still there: %v", err)
	}
	for _, name := range []string{"b c", "dir", "pipe"} {
		if err := os.Remove(filepath.Join(apps, name+".json")); err != nil {
			t.Fatal(err)
		}
	}
	s.Reload()
	until(t, s, "fewer faults", func(u meta.Update) bool { return len(u.Faults) == 2 })
}

// A directory that is gone, as one that is not mounted is no deletion of everything.
func TestDirectoryThatIsGone(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	apps, away := filepath.Join(dir, "apps"), filepath.Join(dir, "away")
	d := metatest.Directory(t, s)
	for i := range 3 {
		if _, err := d.Put(within(t), app(fmt.Sprintf("a%d", i)), ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(apps, away); err != nil {
		t.Fatal(err)
	}
	if err := d.Refresh(within(t)); err != nil {
		t.Fatal(err)
	}
	if n := d.Snapshot().Len(meta.KindApp); n != 3 || d.State().Faults["apps"] == "" {
		t.Errorf("%d apps, faults %v", n, d.State().Faults)
	}
	if _, err := d.Put(within(t), app("b"), ""); !errors.Is(err, errs.Unavailable) {
		t.Errorf("a change: %v", err)
	}
	if err := os.Rename(away, apps); err != nil {
		t.Fatal(err)
	}
	for d.State().Faults["apps"] != "" {
		if err := d.Refresh(within(t)); err != nil {
			t.Fatal(err)
		}
	}
	changed := d.Changed()
	write(t, filepath.Join(apps, "a1.json"), `{"app":"a1","class":"premium"}`)
	select {
	case <-changed:
	case <-within(t).Done():
		t.Fatal("the directory is no longer watched")
	}
	if _, err := d.Put(within(t), app("b"), ""); err != nil {
		t.Error(err)
	}
}

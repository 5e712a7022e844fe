package atomicfile

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func content(text string) func(io.Writer) error {
	return func(w io.Writer) error { _, err := io.WriteString(w, text); return err }
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func TestWriteReplaces(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.json")
	for _, text := range []string{"a longer one", "short"} {
		if err := Write(file, content(text)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(file); err != nil || string(got) != text {
			t.Errorf("%q, %v", got, err)
		}
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v: others may read it", info.Mode(), err)
	}
	if list := names(t, filepath.Dir(file)); len(list) != 1 {
		t.Errorf("left behind: %q", list)
	}
}

func TestWriteThatFailsLeavesTheOldContent(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.json")
	if err := Write(file, content("old")); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	err := Write(file, func(w io.Writer) error {
		_, _ = io.WriteString(w, "half of the n")
		for _, name := range names(t, filepath.Dir(file)) {
			if (name != "x.json") != IsLeftover(name) {
				t.Errorf("%s is taken for something else", name)
			}
		}
		return broken
	})
	if !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	if got, _ := os.ReadFile(file); string(got) != "old" {
		t.Errorf("now it is %q", got)
	}
	if list := names(t, filepath.Dir(file)); len(list) != 1 {
		t.Errorf("left behind: %q", list)
	}
}

func TestWriteWithoutADirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	if err := Write(filepath.Join(dir, "x"), content("")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if err := SyncDir(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

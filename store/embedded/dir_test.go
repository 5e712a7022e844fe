package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/kateway/kateway/internal/disk"
	"github.com/kateway/kateway/store"
)

// contents is every file below a directory, by name.
func contents(t *testing.T, path string) map[string]string {
	t.Helper()
	files := map[string]string{}
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(path, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(name)
		files[name] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// refused fails the test unless opening answers one line with the words and changes nothing.
func refused(t *testing.T, path string, words ...string) {
	t.Helper()
	before := map[string]string{}
	if _, err := os.Stat(path); err == nil {
		before = contents(t, path)
	}
	s, err := Open(Config{Dir: path, Log: testLog(t)})
	if err == nil {
		_ = s.Close(context.Background())
		t.Fatal("it was opened")
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("more than one line: %v", err)
	}
	for _, w := range append(words, path) {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
	if _, err := os.Stat(path); err == nil && !maps.Equal(before, contents(t, path)) {
		t.Error("the directory was changed")
	}
}

// made is the directory of a store that was closed.
func made(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "data")
	s, err := Open(Config{Dir: path, Log: testLog(t)})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDirectoryIsPrivate(t *testing.T) {
	info, err := os.Stat(made(t))
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v; want 0700", info.Mode(), err)
	}
}

func TestRefusesNewerFormat(t *testing.T) {
	path := made(t)
	name := filepath.Join(path, disk.VersionFile)
	if err := os.WriteFile(name, fmt.Appendf(nil, "kateway embedded store, format %d\n", formatVersion+1), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, path, "format 2", "newer")
}

func TestRefusesOtherDirectories(t *testing.T) {
	path := made(t)
	name := filepath.Join(path, disk.VersionFile)
	if err := os.WriteFile(name, []byte("something else"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, path, disk.VersionFile, "something else")
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	refused(t, path, "no "+disk.VersionFile)
}

// A damaged manifest, which pebble takes for an empty database, is told of.
func TestRefusesDamage(t *testing.T) {
	path := made(t)
	names, err := filepath.Glob(filepath.Join(path, disk.DatabaseDir, "MANIFEST-*"))
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		text[len(text)/2] ^= 1
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	refused(t, path, "damaged", "MANIFEST-", "restore")
}

func TestRefusesWhatOthersCanWrite(t *testing.T) {
	path := made(t)
	if err := os.Chmod(path, 0o707); err != nil {
		t.Fatal(err)
	}
	refused(t, path, "everybody", "chmod")
}

func TestRefusesLinksFilesAndMissingParents(t *testing.T) {
	path := made(t)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	refused(t, link, "symbolic link")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, file, "not a directory")
	refused(t, filepath.Join(t.TempDir(), "absent", "data"), "absent", "mount")
	if _, err := Open(Config{}); err == nil {
		t.Error("a store without a directory was opened")
	}
}

func TestRefusesSecondUser(t *testing.T) {
	path := made(t)
	s, err := Open(Config{Dir: path, Log: testLog(t)})
	if err != nil {
		t.Fatal(err)
	}
	_, err = Open(Config{Dir: path, Log: testLog(t)})
	if err == nil || !strings.Contains(err.Error(), "another process uses it") {
		t.Errorf("the second one: %v", err)
	}
	if err := s.CreateTopic(t.Context(), store.Topic{Name: "t"}); err != nil {
		t.Errorf("the first one after it: %v", err)
	}
	if err := s.Close(context.Background()); err != nil {
		t.Error(err)
	}
	open(t, Config{Dir: path})
}

// A directory that can't be written to says so, whichever file it is that fails first.
func TestRefusesReadOnly(t *testing.T) {
	for _, errno := range []error{syscall.EROFS, syscall.EACCES} {
		inner := vfs.NewMem()
		s := open(t, Config{Dir: "data", FS: inner})
		if err := s.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		readOnly := errorfs.Wrap(inner, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && op.Kind != errorfs.OpFileClose {
				return errno
			}
			return nil
		}))
		_, err := Open(Config{Dir: "data", FS: readOnly})
		if !errors.Is(err, errno) || !strings.Contains(err.Error(), "can't be written to") {
			t.Errorf("%v: %v", errno, err)
		}
	}
}

func TestOpensAfterACrashWhileItWasMade(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, disk.VersionFile+".new"), []byte("kat"), 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, Config{Dir: path, Log: testLog(t)})
}

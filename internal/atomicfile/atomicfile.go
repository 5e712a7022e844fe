// Package atomicfile replaces files as a whole: whoever reads one, after a crash and a power loss too, finds the old
// content or the new one.
package atomicfile

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// A file in the making is called .<name>.<something>tmp beside the one that it will replace.
const suffix = "tmp"

// Write gives the file the content that write writes, durably. Only the owner may read it.
func Write(file string, write func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*"+suffix) // with mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	if err = write(f); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), file); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(file))
}

// IsLeftover reports whether a file of this name is what Write leaves behind when the process is killed. It may be removed
// while nobody writes.
func IsLeftover(name string) bool {
	return strings.HasPrefix(name, ".") && strings.HasSuffix(name, suffix)
}

// SyncDir makes what was renamed and removed in the directory durable.
func SyncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

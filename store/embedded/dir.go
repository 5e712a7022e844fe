package embedded

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// formatVersion is that of everything in the directory. It is in a file of its own, so that it can be read without
// opening, and so changing, the database.
const (
	formatVersion = 1
	versionPrefix = "kateway embedded store, format "
)

// Names in the directory.
const (
	versionFile = "FORMAT"
	lockFile    = "LOCK"
	reserveFile = "RESERVE" // see space
	logDir      = "log"     // pebble's
)

// dir is the directory of a store.
type dir struct {
	fs     vfs.FS
	path   string
	onDisk bool // false: a file system of a test, that knows no owners or links
}

func (d dir) join(name string) string { return d.fs.PathJoin(d.path, name) }

// acquire makes sure that the directory is there, ours alone and of a format that we know, and locks it.
func (d dir) acquire() (io.Closer, error) {
	if d.path == "" {
		return nil, errors.New("no directory given")
	}
	if err := d.ensure(); err != nil {
		return nil, err
	}
	if err := d.checkVersion(); err != nil { // before anything is touched
		return nil, err
	}
	lock, err := d.fs.Lock(d.join(lockFile))
	if err != nil {
		return nil, lockError(err)
	}
	if err := d.writeVersion(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}

func lockError(err error) error {
	switch {
	case errors.Is(err, syscall.EAGAIN), strings.Contains(err.Error(), "lock held by current process"):
		return errors.New("another process uses it; end that one first or give another directory")
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return fmt.Errorf("the directory can't be written to: %w", err)
	}
	return fmt.Errorf("lock: %w", err)
}

// ensure makes the directory if only it is missing, and refuses one that others could have tampered with.
func (d dir) ensure() error {
	info, err := d.stat()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return d.create()
	case err != nil:
		return err
	case info.Mode()&fs.ModeSymlink != 0:
		return errors.New("it is a symbolic link; give the directory that it points to")
	case !info.IsDir():
		return errors.New("it is not a directory")
	case info.Mode().Perm()&0o002 != 0:
		return fmt.Errorf("everybody may write to it (mode %v); chmod o-w it if you trust its contents", info.Mode().Perm())
	}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok && d.onDisk && int(sys.Uid) != os.Geteuid() {
		return fmt.Errorf("it belongs to user %d, and this process runs as user %d", sys.Uid, os.Geteuid())
	}
	return nil
}

// stat does not follow a link.
func (d dir) stat() (fs.FileInfo, error) {
	if d.onDisk {
		return os.Lstat(d.path)
	}
	info, err := d.fs.Stat(d.path)
	if err != nil {
		return nil, err
	}
	return info, nil
}

// create makes one level only: a missing parent may be a disk that is not mounted.
func (d dir) create() error {
	parent := d.fs.PathDir(d.path)
	if d.onDisk {
		if err := os.Mkdir(d.path, 0o700); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("neither it nor %s exists; make that one first, or mount it", parent)
			}
			return err
		}
	} else if err := d.fs.MkdirAll(d.path, 0o700); err != nil {
		return err
	}
	return d.syncDir(parent)
}

func (d dir) syncDir(path string) error {
	f, err := d.fs.OpenDir(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// checkVersion refuses a directory that this version can't use. A directory without a version must be without data.
func (d dir) checkVersion() error {
	text, err := d.readVersion()
	if errors.Is(err, fs.ErrNotExist) {
		names, err := d.fs.List(d.path)
		for _, name := range names {
			if d.fs.PathBase(name) == logDir {
				return fmt.Errorf("it has a %s but no %s file: it is not a store's, or damaged", logDir, versionFile)
			}
		}
		return err
	}
	if err != nil {
		return err
	}
	number, isOurs := strings.CutPrefix(strings.TrimSpace(text), versionPrefix)
	n, err := strconv.Atoi(number)
	switch {
	case !isOurs || err != nil:
		return fmt.Errorf("its %s file says %q: it is not a store's, or damaged", versionFile, text)
	case n > formatVersion:
		return fmt.Errorf("it has format %d and this version knows only up to %d; use the newer kateway that wrote it", n, formatVersion)
	}
	return nil
}

func (d dir) readVersion() (string, error) {
	f, err := d.fs.Open(d.join(versionFile))
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	_, err = io.Copy(&b, io.LimitReader(f, 1024))
	return b.String(), errors.Join(err, f.Close())
}

// writeVersion names the format, if that was not done yet, so that it is there whole or not at all.
func (d dir) writeVersion() error {
	if _, err := d.fs.Stat(d.join(versionFile)); err == nil {
		return nil
	}
	temp := d.join(versionFile + ".new")
	f, err := d.fs.Create(temp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%s%d\n", versionPrefix, formatVersion)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := d.fs.Rename(temp, d.join(versionFile)); err != nil {
		return err
	}
	return d.syncDir(d.path)
}

package disk

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2/wal"
)

// ClosedFile says what was in pebble's directory when it was last closed in order. It is not there while pebble is open, nor after
// a crash. Pebble takes what it can't read near the end of its log, or anywhere in its manifest, for the end, as after a crash:
// without this file the store would open without its newest writes, or empty, and nobody would be told.
const ClosedFile = "CLOSED"

// damaged is the error for files that were changed by others, or by the disk.
func damaged(what string, args ...any) error {
	return fmt.Errorf("it is damaged: "+what+"; restore all of it from a copy", args...)
}

// noteClosed writes ClosedFile, durably, after pebble was closed: it has synced all by then.
func (d Dir) noteClosed() error {
	text, err := d.describe()
	if err != nil {
		return err
	}
	return d.writeWhole(ClosedFile, fmt.Sprintf("%s%08x\n", text, checksum([]byte(text))))
}

// checkClosed answers an error when pebble's files are not what they were when it was closed. It changes nothing.
func (d Dir) checkClosed() error {
	text, err := d.readFile(d.Join(ClosedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	list, isWhole := bytes.CutSuffix(text, fmt.Appendf(nil, "%08x\n", checksum(text[:max(len(text)-9, 0)])))
	if !isWhole {
		return damaged("its file %s can't be read", ClosedFile)
	}
	now, err := d.describe()
	if err != nil {
		return damaged("it was closed in order, and now %w", err)
	}
	there := strings.SplitAfter(now, "\n")
	for line := range strings.Lines(string(list)) {
		if !slices.Contains(there, line) {
			name, was, _ := strings.Cut(strings.TrimSpace(line), ": ")
			return damaged("%s is not what it was when it was closed (%s)", d.FS.PathJoin(DatabaseDir, name), was)
		}
	}
	return nil
}

// forgetClosed removes ClosedFile, durably, before pebble changes anything.
func (d Dir) forgetClosed() error {
	err := d.FS.Remove(d.Join(ClosedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return errors.Join(err, d.syncDir(d.Path))
}

// describe has a line for each file of pebble's but for tables, which have sums of their own.
func (d Dir) describe() (string, error) {
	path := d.Join(DatabaseDir)
	names, err := d.FS.List(path)
	if err != nil {
		return "", err
	}
	logs, err := wal.Scan(wal.Dir{FS: d.FS, Dirname: path})
	if err != nil {
		return "", err
	}
	var last string
	if len(logs) > 0 {
		_, last = logs[len(logs)-1].SegmentLocation(0)
	}
	slices.Sort(names)
	var text strings.Builder
	for _, name := range names {
		var line string
		switch full := d.FS.PathJoin(path, name); {
		case strings.HasSuffix(name, ".sst"):
			continue
		case full == last: // behind its end may be what is left of an earlier use of the file
			line, err = sumRecords(logs[len(logs)-1].OpenForRead())
		default: // of older logs too: pebble wants them whole, or does not need them any more
			line, err = d.sumFile(full, !strings.HasSuffix(name, ".log"))
		}
		if err != nil {
			return "", fmt.Errorf("%s: %w", name, err)
		}
		fmt.Fprintf(&text, "%s: %s\n", name, line)
	}
	return text.String(), nil
}

// sumRecords tells of a log what pebble would read of it.
func sumRecords(r wal.Reader) (string, error) {
	h := crc32.New(castagnoli)
	for n := 0; ; n++ {
		one, _, err := r.NextRecord()
		if err == nil {
			_, err = io.Copy(h, one)
		}
		if errors.Is(err, io.EOF) {
			return fmt.Sprintf("%d records, sum %08x", n, h.Sum32()), r.Close()
		}
		if err != nil {
			return "", errors.Join(err, r.Close())
		}
	}
}

// sumFile tells the size of a file, and its sum.
func (d Dir) sumFile(path string, sum bool) (string, error) {
	if !sum {
		info, err := d.FS.Stat(path)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%d bytes", info.Size()), nil
	}
	f, err := d.FS.Open(path)
	if err != nil {
		return "", err
	}
	h := crc32.New(castagnoli)
	n, err := io.Copy(h, f)
	return fmt.Sprintf("%d bytes, sum %08x", n, h.Sum32()), errors.Join(err, f.Close())
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

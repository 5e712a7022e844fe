package disk

import (
	"bytes"
	"encoding/binary"
	"io"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/record"
)

// The format of pebble's manifest, as package record has it: blocks of chunks, each with a sum, its length and its kind before it.
const (
	recordBlock  = 32 << 10
	recordHeader = 7
	recordFull   = 1 // a chunk that is a whole record
	recordFirst  = 2 // the first one of several
)

// checkManifest answers an error when a database that was not closed in order can't be what a crash has left. Each record of a manifest is
// synced before the next one is written, and the first one before a marker names the file, so a crash can take only the last one.
func (d Dir) checkManifest(there *pebble.DBDesc) error {
	if !there.Exists {
		return d.checkUnnamed()
	}
	text, err := d.readFile(there.ManifestFilename)
	if err != nil {
		return err
	}
	n, end := readRecords(text)
	if n == 0 || recordAfter(text, end) {
		return damaged("%s can't be read from byte %d on", d.FS.PathBase(there.ManifestFilename), end)
	}
	return nil
}

// checkUnnamed refuses data that no manifest is named for: the marker that names it is made first.
func (d Dir) checkUnnamed() error {
	names, err := d.FS.List(d.Join(DatabaseDir))
	for _, name := range names {
		if strings.HasSuffix(name, ".sst") || strings.HasSuffix(name, ".log") {
			return damaged("%s has %s, and nothing says which manifest is in use", DatabaseDir, name)
		}
	}
	return err
}

// readRecords answers how many records can be read, and where the last one ends.
func readRecords(text []byte) (n, end int) {
	r := record.NewReader(bytes.NewReader(text), 0)
	for {
		one, err := r.Next()
		if err == nil {
			_, err = io.Copy(io.Discard, one)
		}
		if err != nil {
			return n, end
		}
		n, end = n+1, int(r.Offset())
	}
}

// recordAfter reports whether a record begins somewhere behind the one, begun at from, that can't be read.
func recordAfter(text []byte, from int) bool {
	if recordBlock-from%recordBlock < recordHeader { // the rest of a block that has no room for a header is left out
		from += recordBlock - from%recordBlock
	}
	for i := from + 1; i+recordHeader <= len(text); i++ {
		kind := text[i+6]
		if kind != recordFull && kind != recordFirst {
			continue
		}
		end := i + recordHeader + int(binary.LittleEndian.Uint16(text[i+4:]))
		if end > len(text) || (end-1)/recordBlock != i/recordBlock {
			continue
		}
		// As pebble masks it.
		if c := checksum(text[i+6 : end]); binary.LittleEndian.Uint32(text[i:]) == (c>>15|c<<17)+0xa282ead8 {
			return true
		}
	}
	return false
}

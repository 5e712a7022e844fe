package meta

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/kateway/kateway/internal/atomicfile"
)

// keepFormat is the form of the kept file. A file of a newer one is not read.
const keepFormat = 1

const (
	// The kept file is written when nothing has changed for calm, so that an edit of a thousand objects is one write, and
	// maxUnkept after the first change at the latest.
	calm      = time.Second
	maxUnkept = 10 * time.Second
	// slice is how much of it is written at a time, in bytes. A pause follows that is nine times as long as that took, so
	// that those who publish have the processor and the disk for themselves nine tenths of the time.
	slice = 256 << 10
	// maxKeep is the largest kept file that is read, in bytes.
	maxKeep = 1 << 30
)

// keepOn writes the kept file when the snapshot has changed, and at the end.
func (d *Directory) keepOn(ctx context.Context) {
	var written uint64
	for {
		last := ctx.Err() != nil // asked before the snapshot is: nothing changes it after the end
		changed := d.Changed()
		if s, fresh := d.fresh(); fresh && s.Revision() != written {
			if err := writeKeep(ctx, d.keep, s); err != nil {
				d.log.Error("keeping meta for the next start failed", "file", d.keep, "err", err)
			} else {
				written = s.Revision()
			}
		}
		if last {
			return
		}
		select {
		case <-changed:
			d.calmDown(ctx)
		case <-ctx.Done():
		}
	}
}

// calmDown waits until nothing changes any more, but not for longer than maxUnkept.
func (d *Directory) calmDown(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, maxUnkept)
	defer cancel()
	for {
		changed := d.Changed()
		quiet := time.NewTimer(calm)
		select {
		case <-changed:
			quiet.Stop()
		case <-quiet.C:
			return
		case <-ctx.Done():
			quiet.Stop()
			return
		}
	}
}

// fresh is the snapshot, and whether it came from the source.
func (d *Directory) fresh() (*Snapshot, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.Snapshot(), d.state.Loaded && !d.fromKeep
}

// writeKeep replaces the file by the snapshot. It takes its time until ctx ends. The file holds hashes of keys and the gateways'
// secrets, so nobody else may read it.
func writeKeep(ctx context.Context, file string, s *Snapshot) error {
	return atomicfile.Write(file, func(w io.Writer) error {
		return encodeKeep(&slowly{w: w, began: time.Now(), pause: func(d time.Duration) { wait(ctx, d) }}, s)
	})
}

// slowly writes each slice through to the disk and pauses after it: all of a big file at once would stand in the way of every
// other write.
type slowly struct {
	w     io.Writer
	began time.Time // of the work on the present slice
	pause func(time.Duration)
}

func (s *slowly) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	if disk, ok := s.w.(interface{ Sync() error }); ok && err == nil {
		err = disk.Sync()
	}
	s.pause(9 * time.Since(s.began))
	s.began = time.Now()
	return n, err
}

func encodeKeep(w io.Writer, s *Snapshot) error {
	b := bufio.NewWriterSize(w, slice)
	_, _ = fmt.Fprintf(b, `{"format":%d,"objects":{`, keepFormat) // Flush tells of an error
	separator := "\n"
	for _, kind := range Kinds() {
		for name, o := range s.objects[kind].all() {
			_, _ = fmt.Fprintf(b, "%s%q:", separator, ID{kind, name}) // a name has nothing that JSON writes in another way
			_, _ = b.Write(o.data)
			separator = ",\n"
		}
	}
	_, _ = b.WriteString("\n}}\n")
	return b.Flush()
}

// readKeep is the content of the file. Objects that can't be read are the caller's to find.
func readKeep(file string) (map[ID][]byte, error) {
	if file == "" {
		return nil, errors.New("keeping is off")
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var kept struct {
		Format  int                       `json:"format"`
		Objects map[string]jsontext.Value `json:"objects"`
	}
	if err := json.UnmarshalRead(bufio.NewReaderSize(io.LimitReader(f, maxKeep), 1<<16), &kept); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if kept.Format != keepFormat {
		return nil, fmt.Errorf("%s has format %d, this version reads %d", file, kept.Format, keepFormat)
	}
	objects := make(map[ID][]byte, len(kept.Objects))
	for key, data := range kept.Objects {
		kind, name, _ := strings.Cut(key, "/")
		objects[ID{Kind(kind), name}] = data
	}
	return objects, nil
}

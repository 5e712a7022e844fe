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
	// minKeep is the least time between two writes of the kept file. A big one is written so seldom that it costs a tenth
	// of the time at most.
	minKeep = time.Second
	// maxKeep is the largest kept file that is read, in bytes.
	maxKeep = 1 << 30
)

// keepOn writes the kept file whenever the snapshot has changed, and at the end.
func (d *Directory) keepOn(ctx context.Context) {
	var written uint64
	for {
		last := ctx.Err() != nil // asked before the snapshot is: nothing changes it after the end
		changed := d.Changed()
		pause := minKeep
		if s, fresh := d.fresh(); fresh && s.Revision() != written {
			begin := time.Now()
			if err := writeKeep(d.keep, s); err != nil {
				d.log.Error("keeping meta for the next start failed", "file", d.keep, "err", err)
			} else {
				written = s.Revision()
			}
			pause = max(pause, 10*time.Since(begin))
		}
		if last {
			return
		}
		if wait(ctx, pause) {
			select {
			case <-changed:
			case <-ctx.Done():
			}
		}
	}
}

// fresh is the snapshot, and whether it came from the source.
func (d *Directory) fresh() (*Snapshot, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.Snapshot(), d.state.Loaded && !d.fromKeep
}

// writeKeep replaces the file by the snapshot. It holds hashes of keys and the gateways' secrets, so nobody else may read it.
func writeKeep(file string, s *Snapshot) error {
	return atomicfile.Write(file, func(w io.Writer) error { return encodeKeep(w, s) })
}

func encodeKeep(w io.Writer, s *Snapshot) error {
	b := bufio.NewWriterSize(w, 1<<16)
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

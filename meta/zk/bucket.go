package zk

import (
	"bytes"
	"cmp"
	"fmt"
	"hash/fnv"
	"maps"
	"regexp"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/meta"
)

const (
	// root has a node per kind, with a node per bucket below it.
	root = "/meta"
	// format is the form of a bucket. A bucket of another one is not read, and not written.
	format = 1
	// manyBuckets is how many a kind has of which there may be 100,000 objects: 20 KB each then. It can't be changed
	// without moving every object.
	manyBuckets = 1024
	// maxBucket is the largest bucket that is written, in bytes: ZooKeeper takes 1 MiB, all of a request included.
	maxBucket = 900 << 10
	// maxRead is the largest bucket that is read: servers may be told to take more than usual.
	maxRead = 4 << 20
)

var bucketRule = regexp.MustCompile(`^[0-9a-f]{3}$`)

// bucketsOf is how many buckets a kind has.
func bucketsOf(kind meta.Kind) uint32 {
	switch kind {
	case meta.KindApp, meta.KindTopic, meta.KindSubscription, meta.KindSchema:
		return manyBuckets
	}
	return 1
}

// bucketOf is the bucket in which the object is: three hexadecimal digits.
func bucketOf(id meta.ID) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id.Name))
	return fmt.Sprintf("%03x", h.Sum32()%bucketsOf(id.Kind))
}

func kindPath(kind meta.Kind) string { return root + "/" + string(kind) }

func bucketPath(kind meta.Kind, bucket string) string { return kindPath(kind) + "/" + bucket }

// encodeBucket is the content of a bucket's node, a line per object.
func encodeBucket(objects map[string][]byte) []byte {
	size := 32
	for name, data := range objects {
		size += len(name) + len(data) + 5
	}
	b := fmt.Appendf(make([]byte, 0, size), `{"format":%d,"objects":{`, format)
	separator := "\n"
	for _, name := range slices.Sorted(maps.Keys(objects)) {
		b = fmt.Appendf(b, "%s%q:", separator, name) // a name has nothing that JSON writes in another way
		b = append(b, objects[name]...)
		separator = ",\n"
	}
	return append(b, "\n}}"...)
}

// decodeBucket reads what encodeBucket, or somebody by hand, has written. What is wrong with any of it is wrong with all of it.
// known is what the bucket had before: of what has not changed, its bytes are answered. The others are copies.
func decodeBucket(kind meta.Kind, bucket string, data []byte, known map[string][]byte) (map[string][]byte, error) {
	if len(data) > maxRead {
		return nil, fmt.Errorf("the node has %d bytes, %d are read: %w", len(data), maxRead, errs.TooLarge)
	}
	doc := struct {
		Format  int           `json:"format"`
		Objects bucketContent `json:"objects"`
	}{Objects: bucketContent{kind: kind, bucket: bucket, known: known, objects: map[string][]byte{}}}
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("the node is no bucket: %w: %w", errs.InvalidBody, err)
	}
	if doc.Format != format {
		return nil, fmt.Errorf("the node has format %d, this version knows %d: %w", doc.Format, format, errs.InvalidBody)
	}
	return doc.Objects.objects, doc.Objects.fault
}

// bucketContent is the objects of a bucket as they are read: an edit of one object costs little more than looking through
// the others.
type bucketContent struct {
	kind           meta.Kind
	bucket         string
	known, objects map[string][]byte
	fault          error // the first object that can't be one
}

// UnmarshalJSONFrom is json.UnmarshalerFrom's.
func (c *bucketContent) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	if kind := dec.PeekKind(); kind != '{' {
		return fmt.Errorf("objects is %v and no JSON object", kind)
	}
	if _, err := dec.ReadToken(); err != nil {
		return err
	}
	for dec.PeekKind() != '}' {
		name, err := dec.ReadToken()
		if err != nil {
			return err
		}
		key := name.String()
		value, err := dec.ReadValue()
		if err != nil {
			return err
		}
		object, ok := c.known[key]
		if !ok || !bytes.Equal(object, value) {
			object, err = checkObject(meta.ID{Kind: c.kind, Name: key}, c.bucket, value.Clone())
			c.fault = cmp.Or(c.fault, err)
		}
		c.objects[key] = object
	}
	_, err := dec.ReadToken()
	return err
}

func checkObject(id meta.ID, bucket string, value jsontext.Value) ([]byte, error) {
	if err := id.Check(); err != nil {
		return nil, err
	}
	if is := bucketOf(id); is != bucket {
		return nil, fmt.Errorf("object %q belongs to bucket %s: %w", id.Name, is, errs.InvalidBody)
	}
	if value.Kind() != '{' {
		return nil, fmt.Errorf("object %q is no JSON object: %w", id.Name, errs.InvalidBody)
	}
	if err := value.Compact(); err != nil { // in place: it is a copy already
		return nil, fmt.Errorf("object %q: %w: %w", id.Name, errs.InvalidBody, err)
	}
	return value, nil
}

package sub

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/httpx"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/store"
)

// The limits and defaults of the subscribe parameters.
const (
	defaultLease    = 30 * time.Second
	minLease        = 100 * time.Millisecond
	maxLease        = 12 * time.Hour
	defaultWait     = 30 * time.Second
	maxWait         = 5 * time.Minute
	maxBatch        = 1000
	defaultPrefetch = 100
	maxPrefetch     = 1000
	maxDelay        = 24 * time.Hour
	maxReceipts     = 100 // in the X-Receipt of one poll
)

// setGroup takes the group from the query, where every request needs it.
func (p *place) setGroup(q httpx.Query) error {
	if p.group = q.Get("group"); p.group == "" {
		return fmt.Errorf("group is required: add ?group=<name>: %w", errs.InvalidParam)
	}
	return meta.CheckGroup(p.group)
}

// wish is what polls and streams have in common.
type wish struct {
	place
	start    store.Start
	explicit bool // the client acks by itself
	lease    time.Duration
	client   string
	base64   bool // values always in base64
	accept   []string
	coding   coding
}

// parse reads what polls and streams have in common; q has been checked for unknown names.
func (w *wish) parse(r *http.Request, q httpx.Query) error {
	w.accept, w.coding = r.Header.Values("Accept"), chooseCoding(r.Header.Values("Accept-Encoding"))
	if r.ContentLength != 0 { // a body that nobody reads would also hide the client's leaving from us
		return fmt.Errorf("a subscribe request has no body: %w", errs.InvalidBody)
	}
	if len(r.Header.Values("X-Tag")) > 0 {
		return fmt.Errorf("X-Tag: filtering by tag is not served yet: %w", errs.InvalidParam)
	}
	if err := w.setGroup(q); err != nil {
		return err
	}
	if _, err := q.OneOf("mode", string(group.Fifo)); err != nil {
		return err
	}
	var err error
	if w.start, err = parseReset(q); err != nil {
		return err
	}
	ack, err := q.OneOf("ack", "auto", "explicit")
	if err != nil {
		return err
	}
	w.explicit = ack == "explicit"
	if w.lease, err = q.Duration("lease", defaultLease, minLease, maxLease); err != nil {
		return err
	}
	if q.Has("client") {
		w.client = q.Get("client")
		if err := meta.CheckClient(w.client); err != nil {
			return err
		}
	}
	if q.Has("value") {
		w.base64 = true
		_, err = q.OneOf("value", "base64")
	}
	return err
}

func parseReset(q httpx.Query) (store.Start, error) {
	switch s := q.Get("reset"); {
	case !q.Has("reset"), s == "oldest":
		return store.Start{}, nil
	case s == "newest":
		return store.Start{Newest: true}, nil
	default:
		t, err := time.Parse(time.RFC3339, s)
		if err != nil {
			return store.Start{}, fmt.Errorf("reset=%q: must be newest, oldest or a time as 2006-01-02T15:04:05Z (%%2B for + in a query): %w", s, errs.InvalidParam)
		}
		return store.Start{Since: t}, nil
	}
}

// pollWish is a poll's parameters.
type pollWish struct {
	wish
	batch    int
	wait     time.Duration
	form     pollForm
	receipts []string // to be acked first
}

func (w *pollWish) read(r *http.Request) error {
	q, err := httpx.ParseQuery(r, "group", "mode", "reset", "ack", "lease", "client", "value", "batch", "wait", "cursor")
	if err != nil {
		return err
	}
	if err := w.parse(r, q); err != nil {
		return err
	}
	n, err := q.Int("batch", 1, 1, maxBatch)
	if err != nil {
		return err
	}
	w.batch = int(n)
	if w.wait, err = q.Duration("wait", defaultWait, 0, maxWait); err != nil {
		return err
	}
	if w.form, err = choosePollForm(&w.wish, w.batch); err != nil {
		return err
	}
	w.receipts, err = receiptList(r)
	return err
}

// streamWish is a stream's parameters.
type streamWish struct {
	wish
	prefetch int
	limit    int64 // messages; 0 = endless
	form     streamForm
}

func (w *streamWish) read(r *http.Request) error {
	q, err := httpx.ParseQuery(r, "group", "mode", "reset", "ack", "lease", "client", "value", "prefetch", "limit", "cursor")
	if err != nil {
		return err
	}
	if err := w.parse(r, q); err != nil {
		return err
	}
	n, err := q.Int("prefetch", defaultPrefetch, 1, maxPrefetch)
	if err != nil {
		return err
	}
	w.prefetch = int(n)
	if q.Has("limit") {
		if w.limit, err = q.Int("limit", 0, 1, 1<<62); err != nil {
			return err
		}
	}
	w.form, err = chooseStreamForm(&w.wish)
	return err
}

// receiptList reads the X-Receipt of a poll: receipts of messages just processed, comma separated.
func receiptList(r *http.Request) ([]string, error) {
	h, err := httpx.Header(r, "X-Receipt")
	if err != nil || h == "" {
		return nil, err
	}
	if n := strings.Count(h, ",") + 1; n > maxReceipts {
		return nil, fmt.Errorf("X-Receipt lists %d receipts, at most %d: settle them by PUT: %w", n, maxReceipts, errs.InvalidParam)
	}
	var list []string
	for s := range strings.SplitSeq(h, ",") {
		if s = strings.TrimSpace(s); s != "" {
			list = append(list, s)
		}
	}
	return list, nil
}

package sub

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/httpx"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/plugins"
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
	maxTags         = 32
)

// setGroup takes the group from the query, where every request needs it, and which of its queues is meant.
func (p *place) setGroup(q httpx.Query) error {
	if p.group = q.Get("group"); p.group == "" {
		return fmt.Errorf("group is required: add ?group=<name>: %w", errs.InvalidParam)
	}
	if err := meta.CheckGroup(p.group); err != nil {
		return err
	}
	return p.setQueue(q)
}

// setQueue takes from the query which queue of the group is meant instead of the topic.
func (p *place) setQueue(q httpx.Query) error {
	if !q.Has("q") {
		return nil
	}
	queue, err := q.OneOf("q", string(meta.Retry), string(meta.Dead))
	p.queue = meta.Queue(queue)
	return err
}

// wishParams are the names of what polls and streams have in common. A cursor means nothing to a group.
var wishParams = [...]string{"group", "q", "mode", "tag", "filter", "reset", "ack", "lease", "client", "value", "cursor"} // read only

// wish is what polls and streams have in common.
type wish struct {
	place
	settings group.Settings
	start    store.Start
	explicit bool // the client acks by itself
	lease    time.Duration
	client   string
	first    int  // messages that are taken at once at first
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
	if err := w.setGroup(q); err != nil {
		return err
	}
	var err error
	if w.settings, err = parseSettings(r, q); err != nil {
		return err
	}
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

// parseSettings reads what belongs to the group.
func parseSettings(r *http.Request, q httpx.Query) (s group.Settings, err error) {
	mode, err := q.OneOf("mode", string(group.Fifo), string(group.Queue), string(group.ByKey))
	if err != nil {
		return s, err
	}
	s.Mode = group.Mode(mode)
	s.Tags, s.Filter, err = parseFilter(r, q)
	return s, err
}

// parseFilter reads which messages are wanted: tags, sorted and none twice, and the expression. The expression is looked at
// by who uses it.
func parseFilter(r *http.Request, q httpx.Query) (tags []string, expr string, err error) {
	list, err := httpx.Header(r, "X-Tag")
	switch {
	case err != nil:
		return nil, "", err
	case list != "" && q.Has("tag"):
		return nil, "", fmt.Errorf("tag and the header X-Tag say the same; give one: %w", errs.InvalidParam)
	case q.Has("tag"):
		list = q.Get("tag")
	}
	if list != "" || q.Has("tag") {
		tags = strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ';' })
		for i := range tags {
			tags[i] = strings.TrimSpace(tags[i])
		}
		slices.Sort(tags)
		tags = slices.DeleteFunc(slices.Compact(tags), func(tag string) bool { return tag == "" })
		if len(tags) == 0 || len(tags) > maxTags {
			return nil, "", fmt.Errorf("tag=%.100q: must be 1 to %d tags, comma separated: %w", list, maxTags, errs.InvalidParam)
		}
	}
	expr = q.Get("filter")
	if q.Has("filter") && strings.TrimSpace(expr) == "" {
		return nil, "", fmt.Errorf("filter is empty; leave it out for all messages: %w", errs.InvalidParam)
	}
	return tags, expr, nil
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
	q, err := httpx.ParseQuery(r, append([]string{"batch", "wait"}, wishParams[:]...)...)
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
	w.batch, w.first = int(n), int(n)
	if w.wait, err = q.Duration("wait", defaultWait, 0, maxWait); err != nil {
		return err
	}
	w.waits = w.wait > minLook
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
	inspects []plugins.Inspection // of each of several topics; none without plugins
}

func (w *streamWish) read(r *http.Request) error {
	q, err := httpx.ParseQuery(r, append([]string{"prefetch", "limit"}, wishParams[:]...)...)
	if err != nil {
		return err
	}
	if err := w.parse(r, q); err != nil {
		return err
	}
	w.form, err = chooseStreamForm(&w.wish)
	return err
}

// parse reads what all streams have in common, WebSockets too.
func (w *streamWish) parse(r *http.Request, q httpx.Query) error {
	if err := w.wish.parse(r, q); err != nil {
		return err
	}
	n, err := q.Int("prefetch", defaultPrefetch, 1, maxPrefetch)
	if err != nil {
		return err
	}
	w.prefetch = int(n)
	w.first = w.most()
	w.limit, err = parseLimit(q)
	return err
}

// parseLimit reads after how many messages a stream ends; 0: it does not.
func parseLimit(q httpx.Query) (int64, error) {
	if !q.Has("limit") {
		return 0, nil
	}
	return q.Int("limit", 0, 1, 1<<62)
}

// most is how many messages the client gets at once.
func (w *streamWish) most() int {
	if w.explicit {
		return w.prefetch
	}
	return autoPrefetch
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

package meta

import (
	"hash/maphash"
	"math/bits"
)

// pageCount is how many pages a topicTable has. With 100,000 topics a change copies one page of 16 KiB, and the list of them.
const pageCount = 256

// topicTable finds topics by their names. It never changes; what is changed is an edit of it, which shares the pages that it
// did not touch. It is asked by every publish, and a lookup is a matter of how many places of memory it has to wait for:
// here the page's slot, the record, and the bytes of its names, which lie together (see TopicRecord.gather).
type topicTable struct {
	seed  maphash.Seed
	pages [pageCount]page
}

// page is a hash table with open addressing: its length is a power of two, and at least half of it is empty.
type page []slot

// slot is empty without a record.
type slot struct {
	hash   uint64
	record *TopicRecord
}

// hash leaves out the version: there are few.
func (t *topicTable) hash(name Topic) uint64 {
	return maphash.String(t.seed, name.Name) ^ bits.RotateLeft64(maphash.String(t.seed, name.App), 1)
}

// pageOf takes bits of the hash that tell nothing of the place within the page.
func pageOf(hash uint64) uint64 { return hash >> 56 }

func (t *topicTable) get(name Topic) *TopicRecord {
	h := t.hash(name)
	p := t.pages[pageOf(h)]
	if len(p) == 0 {
		return nil
	}
	for i := h; ; i++ {
		s := &p[i&uint64(len(p)-1)]
		if s.record == nil || s.hash == h && s.record.is(name) {
			return s.record
		}
	}
}

func (t *TopicRecord) is(name Topic) bool {
	return t.Name == name.Name && t.App == name.App && t.Ver == name.Ver
}

// put enters a record, in place of one of its name. There is an empty slot.
func (p page) put(s slot) (added bool) {
	name := s.record.Topic()
	for i := s.hash; ; i++ {
		at := &p[i&uint64(len(p)-1)]
		added = at.record == nil
		if added || at.hash == s.hash && at.record.is(name) {
			*at = s
			return added
		}
	}
}

// rebuilt is a copy with room for so many, without the record named.
func (p page) rebuilt(room int, without *Topic) page {
	next := make(page, 1<<bits.Len(uint(max(2*room-1, 7))))
	for _, s := range p {
		if s.record != nil && (without == nil || !s.record.is(*without)) {
			next.put(s)
		}
	}
	return next
}

// topicEdit is a changed copy of a topicTable in the making. It is one goroutine's.
type topicEdit struct {
	topicTable
	own   [pageCount]bool // pages that are ours already
	count [pageCount]int  // of records, of those that are
}

func (t *topicTable) edit() *topicEdit { return &topicEdit{topicTable: *t} }

// page is the hash's page, ours to write to, with room for one more.
func (e *topicEdit) page(hash uint64) page {
	i := pageOf(hash)
	if !e.own[i] {
		e.own[i], e.count[i] = true, e.pages[i].records()
		e.pages[i] = e.pages[i].rebuilt(e.count[i]+1, nil)
	}
	if 2*(e.count[i]+1) > len(e.pages[i]) {
		e.pages[i] = e.pages[i].rebuilt(2*(e.count[i]+1), nil)
	}
	return e.pages[i]
}

func (p page) records() (n int) {
	for _, s := range p {
		if s.record != nil {
			n++
		}
	}
	return n
}

func (e *topicEdit) set(r *TopicRecord) {
	h := e.hash(r.Topic())
	if e.page(h).put(slot{h, r}) {
		e.count[pageOf(h)]++
	}
}

func (e *topicEdit) remove(name Topic) {
	if e.get(name) == nil {
		return
	}
	h := e.hash(name)
	i := pageOf(h)
	p := e.page(h)
	e.count[i]--
	e.pages[i] = p.rebuilt(e.count[i], &name)
}

package checker

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// Groups of the simulation are drained one after the other, each with its leases to wait for.
var simLimits = Limits{Window: simWindow, Stall: 10 * time.Minute}

// plants are the anomalies that the simulation knows how to make: a rule, and which of its faces.
var plants = []string{
	"C1", "C2", "C2 unwanted", "C3", "C4 bytes", "C4 key", "C5", "C6", "C7", "C8", "C9", "C10", "C11", "C12 missed", "C12 repeated", "C13 stored", "C13 delivered", "C14", "C15",
	"C16", "C17 behind", "C17 drain", "C17 stall", "C20 not dead", "C20 dead twice", "C20 early", "C20 too often", "C22", "C23", "C25",
}

func TestCleanHistoriesAreClean(t *testing.T) {
	t.Parallel()
	delivered, again, unknown := 0, 0, 0
	for seed := range uint64(1000) {
		w := simulate(seed, seed%2 == 1, "")
		r := Check(w.records, simLimits)
		if len(r.Anomalies) > 0 {
			t.Fatalf("seed %d: %v\n%s", seed, r, dumped(w.records))
		}
		delivered, again, unknown = delivered+r.Delivered, again+r.Again, unknown+r.Unknown
	}
	if delivered < 20_000 || again == 0 || unknown == 0 {
		t.Errorf("%d deliveries, %d after a forgotten ack, %d unknown publishes: the histories show too little", delivered, again, unknown)
	}
}

// Each anomaly, planted once into a history that is clean without it, is found and called by its name.
func TestPlantedAnomaliesAreFound(t *testing.T) {
	t.Parallel()
	for _, bug := range plants {
		t.Run(bug, func(t *testing.T) {
			t.Parallel()
			rule, _, _ := strings.Cut(bug, " ")
			if !slices.Contains(Rules(), rule) {
				t.Fatal("no rule of that name")
			}
			found, seeds := 0, uint64(0)
			for ; found < 20; seeds++ {
				if seeds == 2000 {
					t.Fatalf("planted in %d of %d histories", found, seeds)
				}
				faulty := bug == "C3" || bug == "C25" || !slices.Contains([]string{"C8", "C9", "C11", "C14", "C15", "C16", "C20 not dead", "C20 dead twice"}, bug) && seeds%2 == 1
				w := simulate(seeds, faulty, bug)
				w.after()
				if !w.planted {
					continue
				}
				found++
				r := Check(w.records, simLimits)
				if !slices.ContainsFunc(r.Anomalies, func(a Anomaly) bool { return a.Rule == rule }) {
					t.Fatalf("seed %d: %v\n%s", seeds, r, dumped(w.records))
				}
			}
		})
	}
}

func TestEveryRuleIsPlanted(t *testing.T) {
	for _, rule := range Rules() {
		if !slices.ContainsFunc(plants, func(p string) bool { return p == rule || strings.HasPrefix(p, rule+" ") }) {
			t.Errorf("nothing shows that %s is found", rule)
		}
	}
}

// after plants what is easier done to a whole history.
func (w *world) after() {
	switch w.bug {
	case "C13 stored":
		w.swapKeys()
	case "C13 delivered":
		w.swapDeliveries()
	case "C17 drain":
		for i := range w.records {
			if r := &w.records[i]; r.Op == Drain && r.Phase == OK {
				r.Phase, w.planted = Fail, true
			}
		}
	case "C17 stall":
		w.stall()
	case "C20 too often":
		w.oneMore()
	}
}

// swapKeys makes a store that had two messages of a key in the wrong order, and everybody saw them so.
func (w *world) swapKeys() {
	for i := range w.records {
		a := &w.records[i]
		if a.Op != Publish || a.Phase != OK || a.Messages[0].Key == "" || a.Messages[0].Nowhere {
			continue
		}
		for j := i + 1; j < len(w.records); j++ {
			b := &w.records[j]
			once := func(id ID) bool {
				n := 0
				for _, r := range w.records {
					if r.Op == Publish && r.Phase == Invoke && r.Messages[0].ID == id {
						n++
					}
				}
				return n == 1
			}
			if b.Op == Publish && b.Phase == OK && !b.Messages[0].Nowhere && b.Messages[0].Key == a.Messages[0].Key && b.Via == a.Via && b.Of > a.N && once(a.Messages[0].ID) && once(b.Messages[0].ID) {
				w.planted = true
				w.swap(a.Messages[0], b.Messages[0])
				return
			}
		}
	}
}

// swap exchanges the places of two messages wherever they are named.
func (w *world) swap(a, b Message) {
	for i := range w.records {
		r := &w.records[i]
		r.Messages = slices.Clone(r.Messages)
		for k := range r.Messages {
			m := &r.Messages[k]
			switch m.ID {
			case a.ID:
				m.Partition, m.Offset = b.Partition, b.Offset
			case b.ID:
				m.Partition, m.Offset = a.Partition, a.Offset
			}
		}
	}
}

// swapDeliveries exchanges the first deliveries of two messages of a key within the fifo group.
func (w *world) swapDeliveries() {
	first := map[ID]*Message{}
	var list []*Message
	for i := range w.records {
		r := &w.records[i]
		if (r.Op == Poll || r.Op == Chunk) && r.Group == "g0" {
			r.Messages = slices.Clone(r.Messages)
			for k := range r.Messages {
				if m := &r.Messages[k]; first[m.ID] == nil && !m.Partial {
					first[m.ID], list = m, append(list, m)
				}
			}
		}
	}
	acked := func(id ID) (once int) {
		for _, r := range w.records {
			if r.Op == Publish && r.Messages[0].ID == id {
				once++
			}
		}
		return once
	}
	for i, a := range list {
		for _, b := range list[i+1:] {
			if a.Key != "" && a.Key == b.Key && a.ID.Seq < b.ID.Seq && acked(a.ID) == 2 && acked(b.ID) == 2 && w.apart(a, b) {
				*a, *b = *b, *a
				w.planted = true
				return
			}
		}
	}
}

// apart reports whether the two are in different records, and were stored for certain.
func (w *world) apart(a, b *Message) bool {
	stored := 0
	for _, r := range w.records {
		if r.Op == Publish && r.Phase == OK && (r.Messages[0].ID == a.ID || r.Messages[0].ID == b.ID) {
			stored++
		}
		if (r.Op == Poll || r.Op == Chunk) && r.Group == "g0" {
			var one, two bool
			for k := range r.Messages {
				one, two = one || &r.Messages[k] == a, two || &r.Messages[k] == b
			}
			if one && two {
				return false
			}
		}
	}
	return stored == 2
}

// stall lets a long time pass before a first delivery.
func (w *world) stall() {
	got := 0
	for i := range w.records {
		r := &w.records[i]
		if (r.Op != Poll && r.Op != Chunk) || r.Group != "g0" || len(r.Messages) == 0 || r.Phase != OK {
			continue
		}
		if got++; got < 3 || r.Messages[0].Attempt > 1 || w.recordOf(r.Messages[0].ID) > r.N {
			continue
		}
		if slices.ContainsFunc(w.records[:i], func(f Record) bool {
			return f.Op == Fault && !slices.ContainsFunc(w.records[:i], func(e Record) bool { return e.Of == f.N }) && f.Client == ""
		}) {
			return // a fault is going on
		}
		for k := i; k < len(w.records); k++ {
			w.records[k].At += time.Hour
		}
		w.planted = true
		return
	}
}

// recordOf is where the publish was answered 2xx.
func (w *world) recordOf(id ID) int {
	for _, r := range w.records {
		if r.Op == Publish && r.Phase == OK && r.Messages[0].ID == id {
			return r.N
		}
	}
	return never
}

// oneMore delivers a message of the group with a limit more often than allowed.
func (w *world) oneMore() {
	kills := 0
	for _, r := range w.records {
		if r.Unclean && r.Phase == Invoke {
			kills++
		}
	}
	for i := range w.records {
		r := &w.records[i]
		if r.Op == Poll && r.Phase == OK && r.Group == "g1" && len(r.Messages) > 0 {
			m := r.Messages[0]
			for k := range 4 + kills {
				m.Attempt = k + 1
				r.Messages = append(r.Messages, m)
			}
			w.planted = true
			return
		}
	}
}

func dumped(records []Record) string {
	var b bytes.Buffer
	if err := Dump(&b, records); err != nil {
		return err.Error()
	}
	return b.String()
}

func TestDumpIsReadBack(t *testing.T) {
	w := simulate(7, true, "")
	var b bytes.Buffer
	if err := Dump(&b, w.records); err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(b.Bytes(), []byte("\n")); n != len(w.records) {
		t.Errorf("%d lines for %d records", n, len(w.records))
	}
	got, err := Load(&b)
	if err != nil {
		t.Fatal(err)
	}
	for i := range got {
		a, b := got[i], w.records[i]
		if len(a.Messages) == 0 {
			a.Messages, b.Messages = nil, nil
		}
		if !reflect.DeepEqual(a, b) {
			t.Fatalf("record %d: %+v; want %+v", i, a, b)
		}
	}
	if _, err := Load(strings.NewReader("{}\n{")); err == nil {
		t.Error("a broken dump is read")
	}
}

func TestHistoryNumbersAndEnds(t *testing.T) {
	h := NewHistory()
	n := h.Note(Record{Op: Publish, Phase: Invoke, Topic: "t", Messages: []Message{{ID: ID{"r", 1, 2}}}})
	h.End(n, Info, "reset")
	p := h.Note(Record{Op: Poll, Phase: Invoke, Topic: "t", Group: "g", Client: "c"})
	h.End(p, OK, "", Message{Offset: 7})
	r := h.Records()
	if len(r) != 4 || r[1].Of != n || r[1].Messages[0].ID.Seq != 2 || r[1].Note != "reset" || r[3].Group != "g" || r[3].Messages[0].Offset != 7 {
		t.Errorf("%+v", r)
	}
	for i := range r {
		if r[i].N != i+1 || i > 0 && r[i].At < r[i-1].At {
			t.Errorf("record %d is %+v", i, r[i])
		}
	}
}

func TestPayloadProvesItself(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 300 {
		p := Payload{ID{"run-1", r.IntN(100), i}, []string{"", "key"}[i%2], time.Unix(0, r.Int64())}
		v := p.Value(r.IntN(500), i%3 == 0)
		if bytes.IndexByte(v, '\n') >= 0 {
			t.Fatalf("%q has a line feed", v)
		}
		got, err := Parse(v)
		if err != nil || got != p {
			t.Fatalf("%+v, %v; want %+v of %q", got, err, p, v)
		}
		at := r.IntN(len(v))
		bad := slices.Clone(v)
		bad[at] ^= 1
		if q, err := Parse(bad); err == nil {
			t.Fatalf("%q is taken for %+v, with byte %d changed", bad, q, at)
		}
		if _, err := Parse(v[:at]); err == nil {
			t.Fatalf("the first %d bytes are taken for the whole", at)
		}
		if _, err := Parse(append(v, 'x')); err == nil {
			t.Fatal("a value with a byte more is taken")
		}
	}
}

func TestIDIsOneWord(t *testing.T) {
	var id ID
	if err := id.UnmarshalText([]byte("run/3/44")); err != nil || id != (ID{"run", 3, 44}) || fmt.Sprint(id) != "run/3/44" {
		t.Errorf("%v, %v", id, err)
	}
	for _, bad := range []string{"", "a/b", "a/b/c", "a/1/2/3", "a/1/x"} {
		if err := id.UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

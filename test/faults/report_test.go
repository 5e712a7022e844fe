package faults

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/kateway/kateway/test/checker"
)

// round is what is told of one.
type round struct {
	took, drained time.Duration
	faults        int
	report        *checker.Report

	stored, spooled, refused, unknown int // answers to messages published
	still                             time.Duration
}

// note adds a round to the report.
func (c *chaos) note(r round, records []checker.Record) {
	last := map[string]time.Duration{}
	for i := range records {
		rec := &records[i]
		switch {
		case rec.Op == checker.Drain && rec.Phase == checker.Invoke:
			clear(last) // its members come one after the other
		case rec.Op == checker.Publish && rec.Phase != checker.Invoke:
			for _, m := range rec.Messages {
				switch {
				case rec.Phase == checker.OK && m.Nowhere:
					r.spooled++
				case rec.Phase == checker.OK:
					r.stored++
				case rec.Phase == checker.Fail:
					r.refused++
				default:
					r.unknown++
				}
			}
		case (rec.Op == checker.Poll || rec.Op == checker.Chunk) && rec.Phase != checker.Invoke && len(rec.Messages) > 0:
			if since, ok := last[rec.Group]; ok {
				r.still = max(r.still, rec.At-since)
			}
			last[rec.Group] = rec.At
		}
	}
	c.rounds = append(c.rounds, r)
	c.t.Logf("round %d: %d faults in %v, drained in %v; messages 201: %d, 202: %d, refused: %d, unknown: %d; no group got nothing for longer than %v; %v", len(c.rounds), r.faults,
		r.took.Round(time.Second), r.drained.Round(time.Second), r.stored, r.spooled, r.refused, r.unknown, r.still.Round(100*time.Millisecond), r.report)
	for _, g := range c.gateways {
		rss, files := g.usage()
		c.t.Logf("%s: %d MB resident, %d files", g.name, rss>>20, files)
	}
}

// report writes the run down.
func (c *chaos) report(asked time.Duration) {
	file := os.Getenv("KATEWAY_TEST_CHAOS_REPORT")
	if file == "" {
		return
	}
	var sum round
	sum.report = &checker.Report{}
	anomalies, faults := 0, 0
	for _, r := range c.rounds {
		sum.stored, sum.spooled, sum.refused, sum.unknown = sum.stored+r.stored, sum.spooled+r.spooled, sum.refused+r.refused, sum.unknown+r.unknown
		sum.still, sum.drained = max(sum.still, r.still), max(sum.drained, r.drained)
		sum.report.Stored += r.report.Stored
		sum.report.Delivered += r.report.Delivered
		sum.report.Repeated += r.report.Repeated
		sum.report.Again += r.report.Again
		anomalies += len(r.report.Anomalies)
		faults += r.faults
	}
	verdict := "passed"
	if c.t.Failed() {
		verdict = "FAILED"
	}
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("# A long run with faults\n")
	p("Written by `make chaos`; not to be edited. Repeat it with `make chaos CHAOS_TIME=%s CHAOS_SEED=%d`: the same faults in the same order, as far as the machine lets it.\n", strings.TrimSuffix(asked.String(), "0s"), c.seed)
	p("Three brokers of Kafka 4.3 (replication factor 3, two in sync), three servers of ZooKeeper 3.9 and three gateways, each in a network namespace of its own, on one machine with %d processors (%s, %s/%s).", runtime.NumCPU(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	p("%d producers, half of them with idempotency keys and repeating what has no answer; groups in `fifo`, `queue` and `key` mode with explicit acks, each with polls, streams, server-sent events and WebSockets that go to another gateway each time.", producers)
	p("One fault after the other, in rounds: each has a topic of its own, is healed, drained by fresh members, read beside the gateways by a Kafka client, and judged by `test/checker`.\n")
	p("| | |\n|---|---|")
	p("| result | **%s** |", verdict)
	p("| began | %s |", c.begun.UTC().Format("2006-01-02 15:04 UTC"))
	p("| took | %v, %d rounds |", time.Since(c.begun).Round(time.Second), len(c.rounds))
	p("| seed | %d |", c.seed)
	p("| anomalies (lost, skipped, stale, out of order, doubled beyond what is allowed, stuck) | **%d** |", anomalies)
	p("| faults | %d |", faults)
	total := sum.stored + sum.spooled + sum.refused + sum.unknown
	p("| answers to published messages | %d |", total)
	p("| ... stored (201) | %d |", sum.stored)
	p("| ... on the gateway's disk (202), later stored | %d |", sum.spooled)
	p("| ... refused, certainly not stored (503, or nobody there) | %d |", sum.refused)
	p("| ... unknown (504, connection lost, no room for the spool) | %d |", sum.unknown)
	p("| messages in Kafka at the end | %d |", sum.report.Stored)
	p("| deliveries | %d |", sum.report.Delivered)
	p("| ... of a message that the group had got before | %d |", sum.report.Repeated)
	p("| ... of these, acked before: a fault made the gateway forget it, which is allowed | %d |", sum.report.Again)
	p("| longest time that a group got nothing, faults included | %v |", sum.still.Round(100*time.Millisecond))
	p("| longest drain by fresh members | %v |\n", sum.drained.Round(100*time.Millisecond))
	p("## Faults\n")
	p("Each proved that it happened, or the run had failed. \"Well again\" is from its end until each gateway answers 201.\n")
	p("| fault | times | well again after, at most |\n|---|---|---|")
	var names []string
	for n := range c.tally {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		p("| %s | %d | %.1f s |", n, c.tally[n].hits, c.tally[n].slowest.Seconds())
	}
	p("\n## Rounds\n")
	p("| round | faults | 201 | 202 | refused | unknown | in Kafka | delivered | repeated | anomalies |\n|---|---|---|---|---|---|---|---|---|---|")
	for i, r := range c.rounds {
		p("| %d | %d | %d | %d | %d | %d | %d | %d | %d | %d |", i+1, r.faults, r.stored, r.spooled, r.refused, r.unknown, r.report.Stored, r.report.Delivered, r.report.Repeated, len(r.report.Anomalies))
	}
	if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
		c.t.Error(err)
	}
}

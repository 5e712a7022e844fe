package checker

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Anomaly is a promise that was not kept.
type Anomaly struct {
	Rule    string // C1 ...
	Text    string
	Records []int // the N of those that show it
}

func (a Anomaly) String() string { return fmt.Sprintf("%s: %s %v", a.Rule, a.Text, a.Records) }

// Limits is what a run may do.
type Limits struct {
	Ends     time.Duration // so long before it is noted a stream may have ended: the gateway ends it, and its client reads that later (C16)
	AutoOnce bool          // with ack=auto too nothing comes twice (C8): nothing was killed or cut, and no client left with something on its way
	Receipts bool          // no two deliveries have one receipt (C11): a client has read what the gateway believes that it has
	Window   int           // messages per partition that an unclean fault may bring again though they were acked (C8)
	Slack    time.Duration // what clocks, queues and a busy machine may add to a lease (C16); default 2 s
	Stall    time.Duration // the longest time without progress (C17); default 30 s
}

// Report is what Check found.
type Report struct {
	Anomalies  []Anomaly
	Delivered  int // deliveries to all groups and readers
	Stored     int // messages that the store has
	Repeated   int // deliveries of a message to a group that had got it before
	Again      int // of these, ones that the group had acked: allowed after an unclean fault
	AutoLost   int // with ack=auto: stored, never read by a client, and not coming again
	Unknown    int // publishes of which nobody knows
	Unfinished int // operations that never ended
}

func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d stored, %d delivered (%d repeated, %d of them acked), %d lost by ack=auto, %d publishes unknown; %d anomalies",
		r.Stored, r.Delivered, r.Repeated, r.Again, r.AutoLost, r.Unknown, len(r.Anomalies))
	for i, a := range r.Anomalies {
		if i == 20 {
			fmt.Fprintf(&b, "\n  and %d more", len(r.Anomalies)-i)
			break
		}
		fmt.Fprintf(&b, "\n  %v", a)
	}
	return b.String()
}

// Rules are the ids of the anomalies that Check looks for. C18, C19 (delayed publish), C21 (quotas) and C24 (webhooks)
// are reserved for what the gateway does not have yet.
func Rules() []string {
	return []string{"C1", "C2", "C3", "C4", "C5", "C6", "C7", "C8", "C9", "C10", "C11", "C12", "C13", "C14", "C15", "C16", "C17", "C20", "C22", "C23", "C25"}
}

// Check judges a history that has ended, as History.Records or Load answered it: record n is at place n-1. It does not change it.
func Check(records []Record, l Limits) *Report {
	if l.Slack == 0 {
		l.Slack = 2 * time.Second
	}
	if l.Stall == 0 {
		l.Stall = 30 * time.Second
	}
	v := newView(records)
	c := &check{view: v, limits: l, report: &Report{}}
	for _, rule := range []func(){c.store, c.places, c.hints, c.reads, c.order, c.moves, c.liveness} {
		rule()
	}
	for _, g := range v.groups {
		c.group(g)
	}
	for _, r := range v.readers {
		c.reader(r)
	}
	c.count()
	slices.SortStableFunc(c.report.Anomalies, func(a, b Anomaly) int { return strings.Compare(a.Rule, b.Rule) })
	return c.report
}

type check struct {
	*view
	limits Limits
	report *Report
}

func (c *check) found(rule string, at []int, format string, args ...any) {
	c.report.Anomalies = append(c.report.Anomalies, Anomaly{rule, fmt.Sprintf(format, args...), at})
}

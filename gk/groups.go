package gk

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

const groupsPath = "/v1/groups"

// groupInfo is GET /v1/groups/:app/:topic/:ver/:group.
type groupInfo struct {
	Group       string           `json:"group"`
	Mode        string           `json:"mode"`
	Native      bool             `json:"native"`
	Lag         int64            `json:"lag"`
	InFlight    int              `json:"in_flight"`
	Members     []groupMember    `json:"members"`
	Partitions  []groupPartition `json:"partitions"`
	Unreachable []string         `json:"unreachable"` // gateways that did not answer in time
}

type groupMember struct {
	Gateway    string  `json:"gateway"`
	Partitions []int32 `json:"partitions"`
	Clients    int     `json:"clients"`
}

type groupPartition struct {
	Partition     int32  `json:"partition"`
	Start         int64  `json:"start"`
	End           int64  `json:"end"`
	Committed     int64  `json:"committed"`
	Lag           int64  `json:"lag"`
	InFlight      int    `json:"in_flight"`
	OldestUnacked string `json:"oldest_unacked"`
}

// oldest is the longest that a message of the group waits for its ack.
func (g *groupInfo) oldest() time.Duration {
	var longest time.Duration
	for _, p := range g.Partitions {
		if d, err := time.ParseDuration(p.OldestUnacked); err == nil { // absent where nothing waits
			longest = max(longest, d)
		}
	}
	return longest
}

func (g *groupInfo) clients() int {
	n := 0
	for _, m := range g.Members {
		n += m.Clients
	}
	return n
}

type groupArg struct {
	Topic topicArg `arg:"" help:"The topic, as app/topic/version."`
	Group string   `arg:"" help:"The group: <app>.<group>, or the bare name where the app is the topic's own."`
	native
}

// native marks a group that is not kateway's.
type native struct {
	Native bool `help:"The group belongs to clients that use Kafka itself; its name is the one that it has there."`
}

func (n native) query() url.Values {
	if n.Native {
		return query("native", "1")
	}
	return nil
}

func (a groupArg) path() string { return at(groupsPath, append(a.Topic.path(), a.Group)...) }

func (a topicArg) groups() string { return at(groupsPath, a.path()...) }

type groupsLs struct {
	Topic topicArg `arg:"" help:"The topic, as app/topic/version."`
}

func (c *groupsLs) Run(ctx context.Context, t *tool) error {
	return list(t, t.items(ctx, c.Topic.groups(), nil), "GROUP NATIVE", nil, func(g groupInfo) []any { return []any{g.Group, g.Native} })
}

type groupsGet struct{ groupArg }

func (c *groupsGet) Run(ctx context.Context, t *tool) error {
	g, a, err := t.group(ctx, c.groupArg)
	if err != nil {
		return err
	}
	if t.out.json {
		return t.out.object(a)
	}
	for _, pair := range [][2]any{
		{"group", g.Group}, {"mode", g.Mode}, {"lag", g.Lag}, {"in_flight", g.InFlight}, {"unreachable", g.Unreachable},
	} {
		t.out.row(pair[0], pair[1])
	}
	if err := t.out.gap(); err != nil {
		return err
	}
	t.out.begin("GATEWAY", "CLIENTS", "PARTITIONS")
	for _, m := range g.Members {
		t.out.row(m.Gateway, m.Clients, fmt.Sprint(m.Partitions))
	}
	if err := t.out.gap(); err != nil {
		return err
	}
	return t.out.positions(g)
}

// group asks for one group.
func (t *tool) group(ctx context.Context, which groupArg) (*groupInfo, *answer, error) {
	a, err := t.man.get(ctx, which.path(), which.query())
	if err != nil {
		return nil, nil, err
	}
	var g groupInfo
	return &g, a, a.into(&g)
}

// positions is the table of a group's partitions.
func (o *output) positions(g *groupInfo) error {
	o.begin("PARTITION", "START", "END", "COMMITTED", "LAG", "IN-FLIGHT", "OLDEST-UNACKED")
	for _, p := range g.Partitions {
		committed := ""
		if p.Committed >= 0 {
			committed = fmt.Sprint(p.Committed)
		}
		o.row(p.Partition, p.Start, p.End, committed, p.Lag, p.InFlight, p.OldestUnacked)
	}
	return o.end()
}

type groupsSeek struct {
	groupArg
	To string `required:"" placeholder:"WHERE" help:"oldest, newest, or a time as 2026-11-23T10:00:00Z: the first message that is not older."`
}

func (c *groupsSeek) Run(ctx context.Context, t *tool) error {
	if _, err := time.Parse(time.RFC3339, c.To); err != nil && c.To != "oldest" && c.To != "newest" {
		return usagef("--to %q: must be oldest, newest or a time as 2026-11-23T10:00:00Z", c.To)
	}
	return t.seek(ctx, c.groupArg, body{"to": c.To})
}

func (t *tool) seek(ctx context.Context, g groupArg, to body) error {
	return t.call(ctx, request{method: http.MethodPut, path: g.path() + "/offsets", query: g.query(), body: to}, "group "+g.Group+" is moved")
}

type groupsRm struct{ groupArg }

func (c *groupsRm) Run(ctx context.Context, t *tool) error {
	return t.call(ctx, request{method: http.MethodDelete, path: c.path(), query: c.query()}, "group "+c.Group+" is forgotten")
}

type offsetsShow struct{ groupArg }

func (c *offsetsShow) Run(ctx context.Context, t *tool) error {
	return (&lag{Topic: c.Topic, Group: c.Group, native: c.native}).Run(ctx, t)
}

type offsetsSet struct {
	groupArg
	Offsets []position `arg:"" placeholder:"PARTITION=OFFSET" help:"The offset of the next message to deliver, by partition."`
}

func (c *offsetsSet) Run(ctx context.Context, t *tool) error {
	seen := map[int32]bool{}
	for _, p := range c.Offsets {
		if seen[p.Partition] {
			return usagef("partition %d is given twice", p.Partition)
		}
		seen[p.Partition] = true
	}
	return t.seek(ctx, c.groupArg, body{"offsets": c.Offsets})
}

type lag struct {
	Topic topicArg `arg:"" help:"The topic, as app/topic/version."`
	Group string   `arg:"" optional:"" help:"Only this group, by partition."`
	Over  *int64   `placeholder:"N" help:"Exit with 1 when a group is more than N messages behind."`
	native
}

func (c *lag) Run(ctx context.Context, t *tool) error {
	var worst int64
	var err error
	if c.Group != "" {
		worst, err = c.one(ctx, t)
	} else {
		worst, err = c.all(ctx, t)
	}
	if err == nil && c.Over != nil && worst > *c.Over {
		err = fmt.Errorf("a group is %d messages behind, over %d", worst, *c.Over)
	}
	return err
}

// one shows the partitions of one group.
func (c *lag) one(ctx context.Context, t *tool) (int64, error) {
	g, a, err := t.group(ctx, groupArg{c.Topic, c.Group, c.native})
	switch {
	case err != nil:
		return 0, err
	case t.out.json:
		return g.Lag, t.out.object(a)
	}
	return g.Lag, t.out.positions(g)
}

// all shows every group of the topic in a row.
func (c *lag) all(ctx context.Context, t *tool) (int64, error) {
	var worst int64
	t.out.begin("GROUP", "MODE", "LAG", "IN-FLIGHT", "OLDEST-UNACKED", "MEMBERS", "CLIENTS")
	for raw, err := range t.items(ctx, c.Topic.groups(), nil) {
		var listed groupInfo
		if err == nil {
			err = json.Unmarshal(raw, &listed)
		}
		if err != nil {
			return 0, err
		}
		g, a, err := t.group(ctx, groupArg{c.Topic, listed.Group, native{listed.Native}})
		if hasCode(err, "not_found") {
			continue // forgotten since it was listed
		}
		if err != nil {
			return 0, err
		}
		worst = max(worst, g.Lag)
		if err := t.out.element(a.body, []any{g.Group, g.Mode, g.Lag, g.InFlight, g.oldest(), len(g.Members), g.clients()}); err != nil {
			return 0, err
		}
	}
	return worst, t.out.end()
}

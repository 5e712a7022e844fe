package gk

import (
	"context"
	"net/http"

	"github.com/kateway/kateway/meta"
)

const topicsPath = "/v1/topics"

type topicsLs struct {
	App     string   `placeholder:"NAME" help:"Only those of this app."`
	Cluster []string `placeholder:"BROKERS" help:"Ask these Kafka brokers (host:port, comma separated) for all topics that they have."`
	kafkaLink
}

func (c *topicsLs) Run(ctx context.Context, t *tool) error {
	if len(c.Cluster) > 0 {
		if c.App != "" {
			return usagef("--app and --cluster: Kafka knows no apps; give one of them")
		}
		return t.kafkaTopics(ctx, c.Cluster, &c.kafkaLink)
	}
	keep := func(r meta.TopicRecord) bool { return c.App == "" || r.App == c.App }
	return list(t, t.items(ctx, topicsPath, nil), "TOPIC CLUSTER PARTITIONS REPLICAS RETENTION CLEANUP STORE-TOPIC", keep, func(r meta.TopicRecord) []any {
		return []any{r.Topic().String(), r.Cluster, r.Partitions, r.Replicas, noLimit(r.Retention), r.Cleanup, r.StoreTopic}
	})
}

// noLimit is a duration of which a negative one means none.
func noLimit(d meta.Duration) string {
	switch {
	case d < 0:
		return "none"
	case d == 0:
		return ""
	}
	text, _ := d.MarshalText() // never fails
	return string(text)
}

type topicPath struct {
	Topic topicArg `arg:"" help:"The topic, as app/topic/version."`
}

func (a topicPath) path() string { return at(topicsPath, a.Topic.path()...) }

type topicsGet struct{ topicPath }

func (c *topicsGet) Run(ctx context.Context, t *tool) error { return t.show(ctx, c.path()) }

// topicSettings are what can be said of a topic when it is made and later.
type topicSettings struct {
	Partitions     *int32  `placeholder:"N" help:"Number of partitions; it can only grow."`
	Retention      *span   `placeholder:"DURATION" help:"How long messages are kept, as 168h, or none for ever."`
	RetentionBytes *int64  `placeholder:"BYTES" help:"How much of a partition is kept; negative: no limit."`
	Cleanup        *string `placeholder:"POLICY" help:"delete or compact."`
	MaxAttempts    *int    `placeholder:"N" help:"How often a message is delivered before it is given up."`
	Spool          *bool   `negatable:"" help:"Whether messages may wait on a gateway's disk while Kafka is away."`
}

func (s *topicSettings) body() body {
	b := body{}
	put(b, "partitions", s.Partitions)
	put(b, "retention", s.Retention)
	put(b, "retention_bytes", s.RetentionBytes)
	put(b, "cleanup", s.Cleanup)
	put(b, "max_attempts", s.MaxAttempts)
	put(b, "spool", s.Spool)
	return b
}

// named adds the topic's name.
func (b body) named(t topicArg) body {
	b["app"], b["topic"], b["ver"] = t.App, t.Name, t.Ver
	return b
}

type topicsAdd struct {
	topicPath
	topicSettings
	Replicas *int16 `placeholder:"N" help:"Number of replicas."`
}

func (c *topicsAdd) Run(ctx context.Context, t *tool) error {
	b := c.body().named(c.Topic)
	put(b, "replicas", c.Replicas)
	return t.call(ctx, request{method: http.MethodPost, path: topicsPath, body: b}, "topic "+c.Topic.String()+" is made")
}

type topicsSet struct {
	topicPath
	topicSettings
	match
}

func (c *topicsSet) Run(ctx context.Context, t *tool) error {
	b := c.body()
	if err := b.some(); err != nil {
		return err
	}
	return t.call(ctx, change(http.MethodPatch, c.path(), b, c.match), "topic "+c.Topic.String()+" is changed")
}

type topicsRm struct {
	topicPath
	Yes bool `help:"Say that the messages are to be deleted."`
	match
}

func (c *topicsRm) Run(ctx context.Context, t *tool) error {
	if !c.Yes {
		return usagef("topics rm deletes %s with all its messages, and nothing brings them back: say --yes", c.Topic)
	}
	return t.call(ctx, removal(c.path(), c.match), "topic "+c.Topic.String()+" is removed")
}

type topicsMap struct {
	topicPath
	StoreTopic string `arg:"" help:"The name that the topic has in Kafka."`
}

func (c *topicsMap) Run(ctx context.Context, t *tool) error {
	b := body{"store_topic": c.StoreTopic}.named(c.Topic)
	return t.call(ctx, request{method: http.MethodPost, path: topicsPath, body: b}, "topic "+c.Topic.String()+" is mapped")
}

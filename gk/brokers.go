package gk

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/kateway/kateway/internal/links"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/store"
	"github.com/kateway/kateway/store/kafka"
)

// leaveTime is how long the connections to Kafka may take to close.
const leaveTime = 2 * time.Second

type brokers struct {
	Brokers []string `required:"" placeholder:"BROKERS" help:"Some of Kafka's brokers, host:port, comma separated (KATEWAY_KAFKA)."`
	kafkaLink
}

// kafkaLink is how brokers are spoken to, as a gateway has it.
type kafkaLink struct {
	KafkaTLS      bool   `name:"kafka-tls" help:"Speak to Kafka's brokers over TLS (KATEWAY_KAFKA_TLS, as with the following)."`
	KafkaTLSCA    string `name:"kafka-tls-ca" placeholder:"FILE" help:"The authorities of the brokers' certificates, in PEM, instead of the system's."`
	KafkaTLSCert  string `name:"kafka-tls-cert" placeholder:"FILE" help:"Certificate in PEM to show to brokers."`
	KafkaTLSKey   string `name:"kafka-tls-key" placeholder:"FILE" help:"Its private key in PEM."`
	KafkaSASL     string `name:"kafka-sasl" placeholder:"NAME" help:"Tell brokers who this is: plain, scram-sha-256 or scram-sha-512."`
	KafkaSASLFile string `name:"kafka-sasl-file" placeholder:"FILE" help:"File that holds user:password for --kafka-sasl."`
}

// secure sets what the link needs.
func (l *kafkaLink) secure(cfg *kafka.Config) error {
	files := links.Files{CA: l.KafkaTLSCA, Cert: l.KafkaTLSCert, Key: l.KafkaTLSKey}
	switch {
	case !l.KafkaTLS && files != links.Files{}:
		return usagef("--kafka-tls-ca, --kafka-tls-cert and --kafka-tls-key are for nothing without --kafka-tls")
	case (files.Cert == "") != (files.Key == ""):
		return usagef("--kafka-tls-cert and --kafka-tls-key go together; one is missing")
	case (l.KafkaSASL == "") != (l.KafkaSASLFile == ""):
		return usagef("--kafka-sasl and --kafka-sasl-file go together; one is missing")
	}
	if l.KafkaTLS {
		t, err := links.LoadTLS(files, cfg.Log)
		if err != nil {
			return usagef("TLS to Kafka: %v", err)
		}
		cfg.TLS = t.Config
	}
	if l.KafkaSASL != "" {
		c, err := links.LoadCredentials(l.KafkaSASLFile, cfg.Log)
		if err != nil {
			return usagef("credentials for Kafka: %v", err)
		}
		cfg.SASL = &kafka.SASL{Mechanism: l.KafkaSASL, Credentials: c.Current}
	}
	return nil
}

// Help is the second paragraph of its --help.
func (brokers) Help() string {
	return "It ends with 1 when a partition has no leader or lacks a replica, or when a setting weakens the guarantees."
}

// clusterReport is what brokers shows.
type clusterReport struct {
	Cluster         string         `json:"cluster"`
	Controller      int32          `json:"controller"`
	Topics          int            `json:"topics"`
	Partitions      int            `json:"partitions"`
	Leaderless      int            `json:"leaderless"`       // partitions that can't be used now
	UnderReplicated int            `json:"under_replicated"` // partitions of which a replica is not in sync
	Brokers         []brokerReport `json:"brokers"`
	Warnings        []string       `json:"warnings"`
}

type brokerReport struct {
	ID       int32  `json:"id"`
	Host     string `json:"host"`
	Port     int32  `json:"port"`
	Rack     string `json:"rack"`
	Leaders  int    `json:"leaders"`
	Replicas int    `json:"replicas"`
}

func newClusterReport(c store.Cluster, warnings []string) *clusterReport {
	r := &clusterReport{
		Cluster: c.ID, Controller: c.Controller, Topics: c.Topics, Partitions: c.Partitions, Leaderless: c.Leaderless,
		UnderReplicated: c.UnderReplicated, Brokers: []brokerReport{}, Warnings: append([]string{}, warnings...),
	}
	for _, b := range c.Brokers {
		r.Brokers = append(r.Brokers, brokerReport(b))
	}
	return r
}

func (c *brokers) Run(ctx context.Context, t *tool) error {
	ctx, cancel := context.WithTimeout(ctx, t.global.Timeout)
	defer cancel()
	s, err := openKafka(ctx, c.Brokers, &c.kafkaLink)
	if err != nil {
		return err
	}
	defer closeKafka(ctx, s)
	cluster, err := s.Describe(ctx)
	if err != nil {
		return err
	}
	warnings, err := s.Warnings(ctx)
	if err != nil {
		return err
	}
	r := newClusterReport(cluster, warnings)
	if err := r.show(t.out); err != nil {
		return err
	}
	if len(r.Warnings) > 0 || r.Leaderless > 0 || r.UnderReplicated > 0 {
		return &foundError{}
	}
	return nil
}

func (r *clusterReport) show(o *output) error {
	if o.json {
		return o.value(r)
	}
	o.row("cluster", r.Cluster)
	o.row("topics", r.Topics)
	o.row("partitions", r.Partitions)
	o.row("leaderless", r.Leaderless)
	o.row("under-replicated", r.UnderReplicated)
	if err := o.gap(); err != nil {
		return err
	}
	o.begin("BROKER", "ADDRESS", "RACK", "LEADERS", "REPLICAS", "CONTROLLER")
	for _, b := range r.Brokers {
		o.row(b.ID, hostPort(b.Host, b.Port), b.Rack, b.Leaders, b.Replicas, b.ID == r.Controller)
	}
	if len(r.Warnings) > 0 {
		if err := o.gap(); err != nil {
			return err
		}
	}
	for _, w := range r.Warnings {
		o.row("warning: " + w)
	}
	return o.end()
}

// openKafka connects to Kafka, or says in unreachableError that it can't.
func openKafka(ctx context.Context, brokers []string, l *kafkaLink) (*kafka.Store, error) {
	cfg := kafka.Config{Brokers: brokers, ClientID: "gk", Log: slog.New(slog.DiscardHandler)}
	if err := l.secure(&cfg); err != nil {
		return nil, err
	}
	s, err := kafka.Open(ctx, cfg)
	if err != nil {
		return nil, usagef("%v", err)
	}
	if err := s.Ping(ctx); err != nil {
		closeKafka(ctx, s)
		return nil, &unreachableError{fmt.Errorf("kafka %v: %w", brokers, err)}
	}
	return s, nil
}

// closeKafka ends the connections. There is nothing under way that an error could be about.
func closeKafka(ctx context.Context, s *kafka.Store) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTime)
	defer cancel()
	_ = s.Close(ctx)
}

// storeTopic is a topic as Kafka has it.
type storeTopic struct {
	Name           string `json:"name"`
	Partitions     int32  `json:"partitions"`
	Replicas       int16  `json:"replicas"`
	Retention      string `json:"retention"`
	RetentionBytes int64  `json:"retention_bytes"`
	Cleanup        string `json:"cleanup"`
}

// kafkaTopics lists what the brokers have.
func (t *tool) kafkaTopics(ctx context.Context, brokers []string, l *kafkaLink) error {
	ctx, cancel := context.WithTimeout(ctx, t.global.Timeout)
	defer cancel()
	s, err := openKafka(ctx, brokers, l)
	if err != nil {
		return err
	}
	defer closeKafka(ctx, s)
	topics, err := s.Topics(ctx)
	if err != nil {
		return fmt.Errorf("kafka %v: %w", brokers, err)
	}
	t.out.begin("TOPIC", "PARTITIONS", "REPLICAS", "RETENTION", "RETENTION-BYTES", "CLEANUP")
	for _, s := range topics {
		v := storeTopic{s.Name, s.Partitions, s.Replicas, noLimit(meta.Duration(s.Retention)), s.RetentionBytes, s.Cleanup}
		if err := t.out.made(v, v.Name, v.Partitions, v.Replicas, v.Retention, v.RetentionBytes, v.Cleanup); err != nil {
			return err
		}
	}
	return t.out.end()
}

package meta

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/kateway/kateway/internal/errs"
)

// Record is an object with its meaning.
type Record interface {
	// ID is under which name it is kept.
	ID() ID
	// Validate answers every fault, joined; nil where there is none. Kinds InvalidName and InvalidBody.
	Validate() error
}

// Duration is a time.Duration that is written as in Go ("168h", "1m30s") in JSON. A negative one means no limit where a
// limit is meant; "-1ns" is one.
type Duration time.Duration

// MarshalText writes Go's form without the parts that say nothing: 168h, not 168h0m0s.
func (d Duration) MarshalText() ([]byte, error) {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return []byte(s), nil
}

// UnmarshalText reads Go's form.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("%.40q is no duration; write it as 90s or 168h: %w", b, errs.InvalidBody)
	}
	*d = Duration(v)
	return nil
}

// DefaultCluster is where an app lives that says nothing else: the store that the gateways are configured with.
const DefaultCluster = "default"

// The classes of an app.
const (
	ClassPremium    = "premium"
	ClassStandard   = "standard"
	ClassBestEffort = "besteffort"
)

// App is a tenant.
type App struct {
	Name        string    `json:"app"`
	Description string    `json:"description"`
	Disabled    bool      `json:"disabled"`
	Class       string    `json:"class"`
	Cluster     string    `json:"cluster"` // where its topics are made
	Limits      Limits    `json:"limits"`
	Created     time.Time `json:"created"`
	Keys        []Key     `json:"keys,omitempty"` // several may be valid at a time, so that one can be replaced without a break
}

// Limits bound what an app may do; 0 is the configuration's default.
type Limits struct {
	RequestsPerSecond float64  `json:"requests_per_second"`
	MessagesPerSecond float64  `json:"messages_per_second"`
	BytesPerSecond    int64    `json:"bytes_per_second"`
	Burst             Duration `json:"burst"`
	Connections       int      `json:"connections"`
	Streams           int      `json:"streams"`
	InFlightBytes     int64    `json:"in_flight_bytes"`
	Topics            int      `json:"topics"`
	Groups            int      `json:"groups"`
	Jobs              int      `json:"jobs"`
}

// What a key may be used for.
const (
	UsePub  = "pub"
	UseSub  = "sub"
	UseBoth = "both"
)

// Key is what is kept of a secret that an app shows: enough to know it again, not enough to show it.
type Key struct {
	KeyID   string     `json:"id"` // unique over all apps; the first part of the secret
	Name    string     `json:"name"`
	Use     string     `json:"use"`
	Hash    string     `json:"hash"` // SHA-256 of the whole secret, in hexadecimal: enough for one of 256 random bits
	Created time.Time  `json:"created"`
	Expires *time.Time `json:"expires,omitempty"`
}

// The cleanup policies of a topic.
const (
	CleanupDelete  = "delete"
	CleanupCompact = "compact"
)

// DefaultMaxAttempts is how often a message is delivered where its topic says nothing else.
const DefaultMaxAttempts = 16

// TopicRecord is a topic as it is registered.
type TopicRecord struct {
	App            string    `json:"app"`
	Name           string    `json:"topic"`
	Ver            string    `json:"ver"`
	Cluster        string    `json:"cluster"` // the app's when the topic was made
	Partitions     int32     `json:"partitions"`
	Replicas       int16     `json:"replicas"`        // 0: the store's default
	Retention      Duration  `json:"retention"`       // 0: the store's default; negative: no limit
	RetentionBytes int64     `json:"retention_bytes"` // per partition; 0: the store's default; negative: no limit
	Cleanup        string    `json:"cleanup"`         // "": the store's default
	MaxAttempts    int       `json:"max_attempts"`
	Spool          bool      `json:"spool"`
	StoreTopic     string    `json:"store_topic"` // the topic of the store that it is mapped onto; "": its own
	Created        time.Time `json:"created"`

	place string // Place, made when the record was read; no longer right in a copy whose other fields were changed
}

// Topic is its name.
func (t *TopicRecord) Topic() Topic { return Topic{t.App, t.Name, t.Ver} }

// Place is the topic's name in the store: <topic>, or <cluster>:<topic> in another cluster than the default one.
func (t *TopicRecord) Place() string {
	if t.place != "" {
		return t.place
	}
	name := t.StoreTopic
	if name == "" {
		name = t.Topic().Store()
	}
	return PlaceIn(t.Cluster, name)
}

// PlaceIn is the name of a cluster's topic among those of all clusters.
func PlaceIn(cluster, topic string) string {
	if cluster == "" || cluster == DefaultCluster {
		return topic
	}
	return cluster + ":" + topic
}

// Subscription is a grant: the subscriber may read the topic.
type Subscription struct {
	App        string         `json:"app"`
	Name       string         `json:"topic"`
	Ver        string         `json:"ver"`
	Subscriber string         `json:"subscriber"`
	Groups     []string       `json:"groups"`           // none: any
	Spread     map[string]int `json:"spread,omitempty"` // group -> number of home gateways; absent: 1
	Created    time.Time      `json:"created"`
}

// Topic is the topic that it is for.
func (s *Subscription) Topic() Topic { return Topic{s.App, s.Name, s.Ver} }

// Cluster is a Kafka cluster besides the default one.
type Cluster struct {
	Name      string    `json:"cluster"`
	Brokers   []string  `json:"brokers,omitempty"`   // bootstrap, host:port
	ZooKeeper string    `json:"zookeeper,omitempty"` // host:port,.../chroot of a ZooKeeper-mode Kafka whose brokers are found there; instead of brokers
	TLS       bool      `json:"tls,omitempty"`       // its brokers are spoken to over TLS, with what the gateways are configured with
	SASL      string    `json:"sasl,omitempty"`      // mechanism by which they are told who we are; the credentials are files of the gateways
	Created   time.Time `json:"created"`
}

// The mechanisms of SASL that a cluster may have.
const (
	SASLPlain       = "plain" // with TLS only
	SASLScramSHA256 = "scram-sha-256"
	SASLScramSHA512 = "scram-sha-512"
)

// The roles of an admin key.
const (
	RoleAdmin    = "admin"    // everything
	RoleOperator = "operator" // all but keys and apps
	RoleViewer   = "viewer"   // reading
)

// AdminKey opens the management API.
type AdminKey struct {
	KeyID   string     `json:"id"`
	Name    string     `json:"name"`
	Role    string     `json:"role"`
	Hash    string     `json:"hash"`
	Created time.Time  `json:"created"`
	Expires *time.Time `json:"expires,omitempty"`
}

// Option is a hot setting of all gateways.
type Option struct {
	Name  string          `json:"name"`
	Value json.RawMessage `json:"value"`
}

// Secret is what gateways share and nobody else knows. While it is rotated both values count.
type Secret struct {
	Name     string    `json:"name"`
	Current  []byte    `json:"current"`
	Previous []byte    `json:"previous,omitempty"`
	Rotated  time.Time `json:"rotated"`
}

// The secrets there are.
const (
	SecretPeer     = "peer"     // gateways know each other by it
	SecretReceipts = "receipts" // receipts are made with it
	SecretPlugins  = "plugins"  // what plugins of several gateways share is derived from it
)

// ID is Record's.
func (a *App) ID() ID { return ID{KindApp, a.Name} }

// ID is Record's.
func (t *TopicRecord) ID() ID { return ID{KindTopic, t.Topic().Store()} }

// ID is Record's.
func (s *Subscription) ID() ID {
	return ID{KindSubscription, s.Topic().Store() + "." + s.Subscriber}
}

// ID is Record's.
func (c *Cluster) ID() ID { return ID{KindCluster, c.Name} }

// ID is Record's.
func (k *AdminKey) ID() ID { return ID{KindAdminKey, k.KeyID} }

// ID is Record's.
func (o *Option) ID() ID { return ID{KindOption, o.Name} }

// ID is Record's.
func (s *Secret) ID() ID { return ID{KindSecret, s.Name} }

package meta

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/kateway/kateway/internal/errs"
)

// Bounds of records.
const (
	MaxPartitions  = 10_000
	MaxAttempts    = 1_000
	MaxSpread      = 16
	MinRetention   = time.Minute
	maxName        = 128 // characters of a key's name
	maxDescription = 1_000
	minSecret      = 16 // bytes of a secret of the gateways
)

// Rules of names that docs/api.md, "Names", does not list.
var (
	clusterRule = regexp.MustCompile(`^[A-Za-z0-9-]{1,32}$`)
	keyRule     = regexp.MustCompile(`^[A-Za-z0-9-]{1,32}$`)
	optionRule  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	hashRule    = regexp.MustCompile(`^[0-9a-f]{64}$`)
	storeRule   = regexp.MustCompile(`^[A-Za-z0-9._-]{1,249}$`)
)

// CheckCluster checks a cluster's name.
func CheckCluster(name string) error { return check("cluster", name, clusterRule) }

// CheckOption checks the name of a hot setting.
func CheckOption(name string) error { return check("option", name, optionRule) }

// CheckStoreTopic checks the name of a topic that the store has already and that one of ours is to be mapped onto. Topics
// that Kafka or a group keeps for itself are out of reach.
func CheckStoreTopic(name string) error {
	if err := check("store_topic", name, storeRule); err != nil {
		return err
	}
	switch {
	case name == "." || name == "..":
		return fmt.Errorf("store_topic %q: Kafka has no topic of this name: %w", name, errs.InvalidName)
	case strings.HasPrefix(name, "__"):
		return fmt.Errorf("store_topic %q: topics that begin with __ are internal ones: %w", name, errs.InvalidName)
	case strings.HasSuffix(name, ".retry"), strings.HasSuffix(name, ".dead"):
		return fmt.Errorf("store_topic %q: topics that end in .retry or .dead belong to groups: %w", name, errs.InvalidName)
	}
	return nil
}

// faults collects what is wrong with a record.
type faults []error

func (f *faults) name(err error) {
	if err != nil {
		*f = append(*f, err)
	}
}

func (f *faults) unless(ok bool, format string, args ...any) {
	if !ok {
		*f = append(*f, fmt.Errorf(format+": %w", append(args, errs.InvalidBody)...))
	}
}

func (f *faults) err() error { return errors.Join(*f...) }

func (f *faults) text(what, s string, longest int) {
	f.unless(len(s) <= longest && !strings.ContainsFunc(s, unicode.IsControl),
		"%s has at most %d bytes and no control characters", what, longest)
}

func (f *faults) topic(t Topic) {
	_, err := ParseTopic(t.App, t.Name, t.Ver)
	f.name(err)
}

func (f *faults) cluster(name string) {
	if name != "" {
		f.name(CheckCluster(name))
	}
}

func (f *faults) key(id, name, hash string) {
	f.name(check("key id", id, keyRule))
	f.text("name", name, maxName)
	f.unless(hashRule.MatchString(hash), "hash must be a SHA-256 in 64 hexadecimal digits")
}

// Validate is Record's.
func (a *App) Validate() error {
	var f faults
	f.name(CheckApp(a.Name))
	f.text("description", a.Description, maxDescription)
	f.unless(slices.Contains([]string{ClassPremium, ClassStandard, ClassBestEffort}, a.Class),
		"class %.40q must be premium, standard or besteffort", a.Class)
	f.cluster(a.Cluster)
	a.Limits.validate(&f)
	seen := map[string]bool{}
	for _, k := range a.Keys {
		f.key(k.KeyID, k.Name, k.Hash)
		f.unless(slices.Contains([]string{UsePub, UseSub, UseBoth}, k.Use), "use %.40q of a key must be pub, sub or both", k.Use)
		f.unless(!seen[k.KeyID], "key id %.40q is there twice", k.KeyID)
		seen[k.KeyID] = true
	}
	return f.err()
}

func (l *Limits) validate(f *faults) {
	for _, v := range []struct {
		what string
		ok   bool
	}{
		{"requests_per_second", l.RequestsPerSecond >= 0}, {"messages_per_second", l.MessagesPerSecond >= 0},
		{"bytes_per_second", l.BytesPerSecond >= 0}, {"burst", l.Burst >= 0}, {"connections", l.Connections >= 0},
		{"streams", l.Streams >= 0}, {"in_flight_bytes", l.InFlightBytes >= 0}, {"topics", l.Topics >= 0},
		{"groups", l.Groups >= 0}, {"jobs", l.Jobs >= 0},
	} {
		f.unless(v.ok, "limit %s must not be negative; 0 is the configuration's default", v.what)
	}
}

// Validate is Record's.
func (t *TopicRecord) Validate() error {
	var f faults
	f.topic(t.Topic())
	f.cluster(t.Cluster)
	mapped := t.StoreTopic != ""
	if mapped {
		f.name(CheckStoreTopic(t.StoreTopic))
	}
	f.unless(t.Partitions >= 1 && t.Partitions <= MaxPartitions || mapped && t.Partitions == 0,
		"partitions must be 1 to %d, not %d", MaxPartitions, t.Partitions)
	f.unless(t.Replicas >= 0, "replicas must be at least 1, or 0 for the store's default, not %d", t.Replicas)
	f.unless(t.Retention <= 0 || time.Duration(t.Retention) >= MinRetention,
		"retention must be at least %s, 0 for the store's default, or negative for no limit, not %s", MinRetention, time.Duration(t.Retention))
	f.unless(slices.Contains([]string{"", CleanupDelete, CleanupCompact}, t.Cleanup), "cleanup %.40q must be delete or compact", t.Cleanup)
	f.unless(t.MaxAttempts >= 1 && t.MaxAttempts <= MaxAttempts, "max_attempts must be 1 to %d, not %d", MaxAttempts, t.MaxAttempts)
	return f.err()
}

// Validate is Record's.
func (s *Subscription) Validate() error {
	var f faults
	f.topic(s.Topic())
	f.name(CheckApp(s.Subscriber))
	for _, g := range s.Groups {
		f.name(CheckGroup(g))
	}
	for g, n := range s.Spread {
		f.name(CheckGroup(g))
		f.unless(n >= 1 && n <= MaxSpread, "spread of group %.60q must be 1 to %d, not %d", g, MaxSpread, n)
	}
	return f.err()
}

// Validate is Record's.
func (c *Cluster) Validate() error {
	var f faults
	f.name(CheckCluster(c.Name))
	f.unless(c.Name != DefaultCluster, "cluster %q is the one of the gateways' configuration", DefaultCluster)
	f.unless((len(c.Brokers) > 0) != (c.ZooKeeper != ""), "cluster has brokers or a zookeeper to find them in, one of the two")
	for _, b := range c.Brokers {
		f.unless(isAddress(b), "broker %.100q must be host:port", b)
	}
	f.unless(slices.Contains([]string{"", SASLPlain, SASLScramSHA256, SASLScramSHA512}, c.SASL), "sasl %.100q is none of %s, %s, %s", c.SASL, SASLPlain, SASLScramSHA256, SASLScramSHA512)
	f.unless(c.SASL != SASLPlain || c.TLS, "sasl %s sends the password as it is, and needs tls", SASLPlain)
	if c.ZooKeeper != "" {
		servers, _, _ := strings.Cut(c.ZooKeeper, "/")
		for s := range strings.SplitSeq(servers, ",") {
			f.unless(isAddress(s), "zookeeper %.100q must be host:port,.../path; %.100q is no host:port", c.ZooKeeper, s)
		}
	}
	return f.err()
}

func isAddress(s string) bool {
	host, port, err := net.SplitHostPort(s)
	if err != nil || host == "" || strings.ContainsFunc(host, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) {
		return false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}

// Validate is Record's.
func (k *AdminKey) Validate() error {
	var f faults
	f.key(k.KeyID, k.Name, k.Hash)
	f.unless(slices.Contains([]string{RoleAdmin, RoleOperator, RoleViewer}, k.Role), "role %.40q must be admin, operator or viewer", k.Role)
	return f.err()
}

// Validate is Record's.
func (o *Option) Validate() error {
	var f faults
	f.name(CheckOption(o.Name))
	f.unless(json.Valid(o.Value), "value must be a JSON value")
	return f.err()
}

// Validate is Record's.
func (s *Secret) Validate() error {
	var f faults
	f.name(check("secret", s.Name, optionRule))
	f.unless(len(s.Current) >= minSecret, "current must have at least %d bytes", minSecret)
	f.unless(len(s.Previous) == 0 || len(s.Previous) >= minSecret, "previous must have at least %d bytes", minSecret)
	return f.err()
}

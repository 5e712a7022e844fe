package meta

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/kateway/kateway/internal/errs"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// good is a valid record of each kind.
func good() map[Kind]Record {
	_, _, hash := NewSecret()
	return map[Kind]Record{
		KindApp: &App{Name: "shop", Class: ClassPremium, Cluster: "east", Limits: Limits{RequestsPerSecond: 0.5, Burst: Duration(time.Second)},
			Created: noon, Keys: []Key{{KeyID: "k1", Name: "ci", Use: UsePub, Hash: hash, Created: noon, Expires: &noon}}},
		KindTopic: &TopicRecord{App: "shop", Name: "orders", Ver: "v1", Cluster: "east", Partitions: 12, Replicas: 3,
			Retention: Duration(168 * time.Hour), Cleanup: CleanupDelete, MaxAttempts: 16, Created: noon},
		KindSubscription: &Subscription{App: "shop", Name: "orders", Ver: "v1", Subscriber: "bill", Groups: []string{"g_1"},
			Spread: map[string]int{"g_1": 3, "g2": 1, "g3": 16}, Created: noon},
		KindCluster:  &Cluster{Name: "east", Brokers: []string{"k1:9092", "[::1]:9092"}, Created: noon},
		KindAdminKey: &AdminKey{KeyID: "a1", Name: "ops", Role: RoleOperator, Hash: hash, Created: noon},
		KindOption:   &Option{Name: "log.level", Value: json.RawMessage(`{"any":["thing",1]}`)},
		KindSecret:   &Secret{Name: SecretPeer, Current: make([]byte, 32), Previous: make([]byte, 16), Rotated: noon},
		KindSchema: &Schema{App: "shop", Name: "orders", Ver: "v1", Version: 12, SchemaID: 7, Type: "json", Text: `{"type":"object"}`,
			Compatibility: "backward", Created: noon},
	}
}

func TestRecordsComeBack(t *testing.T) {
	records := good()
	for _, kind := range Kinds() {
		r := records[kind]
		data, err := encode(r)
		if err != nil {
			t.Errorf("%s: %v", kind, err)
			continue
		}
		if err := (Change{ID: r.ID(), Data: data}).Check(nil); err != nil {
			t.Errorf("%s can't be kept: %v", kind, err)
		}
		if compact, err := Compact(data); err != nil || !bytes.Equal(compact, data) {
			t.Errorf("%s is not compact: %s", kind, data)
		}
		got, err := decode(r.ID(), data)
		if topic, ok := got.(*TopicRecord); ok {
			topic.place = ""
		}
		if err != nil || !reflect.DeepEqual(got, r) {
			t.Errorf("%s: %+v, %v; want %+v", data, got, err, r)
		}
		if again, _ := encode(r); !bytes.Equal(again, data) {
			t.Errorf("%s is written in another way each time", kind)
		}
	}
}

// A newer version may have written fields that this one does not know. Anything else that is unexpected is a fault.
func TestDecodeIsStrict(t *testing.T) {
	id := ID{KindApp, "shop"}
	if r, err := decode(id, []byte(`{"app":"shop","class":"standard","colour":{"x":1}}`)); err != nil || r.(*App).Name != "shop" {
		t.Errorf("%v", err)
	}
	for _, bad := range []string{
		``, `null`, `[]`, `{}`, `{"app":"shop"}`, `{"app":"other","class":"standard"}`, `{"App":"shop","class":"standard"}`,
		`{"app":"shop","class":5}`, `{"app":"shop","class":"standard","limits":{"topics":"5"}}`,
		`{"app":"shop","class":"standard","limits":{"burst":"soon"}}`, `{"app":"shop","class":"standard","limits":{"burst":5}}`,
		`{"app":"shop","app":"shop","class":"standard"}`, `{"app":"shop","class":"standard"`, `{"app":"shop","class":"standard","limits":{"topics":1e99}}`,
	} {
		if r, err := decode(id, []byte(bad)); err == nil || !strings.Contains(err.Error(), "apps/shop") {
			t.Errorf("%s: %+v, %v", bad, r, err)
		}
	}
	if _, err := decode(ID{"others", "a"}, []byte(`{}`)); !errors.Is(err, errs.InvalidBody) {
		t.Errorf("a kind that there is not: %v", err)
	}
}

func TestEveryFaultIsTold(t *testing.T) {
	err := (&TopicRecord{App: "a b", Name: "orders", Ver: "v1", Cluster: "east coast", Replicas: -1, Retention: 1, Cleanup: "never"}).Validate()
	for _, want := range []string{`app "a b"`, `cluster "east coast"`, "partitions must be 1 to 10000", "replicas", "retention must be at least 1m", "cleanup", "max_attempts"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; lacks %s", err, want)
		}
	}
}

func TestValidate(t *testing.T) {
	for what, c := range map[string]struct {
		kind  Kind
		spoil func(Record)
		is    error // nil: it is good all the same
	}{
		"app: no class":        {KindApp, func(r Record) { r.(*App).Class = "" }, errs.InvalidBody},
		"app: no cluster":      {KindApp, func(r Record) { r.(*App).Cluster = "" }, nil},
		"app: long text":       {KindApp, func(r Record) { r.(*App).Description = strings.Repeat("x", 1001) }, errs.InvalidBody},
		"app: control":         {KindApp, func(r Record) { r.(*App).Description = "a\x1bb" }, errs.InvalidBody},
		"app: negative limit":  {KindApp, func(r Record) { r.(*App).Limits.Topics = -1 }, errs.InvalidBody},
		"app: key twice":       {KindApp, func(r Record) { a := r.(*App); a.Keys = append(a.Keys, a.Keys[0]) }, errs.InvalidBody},
		"app: key id":          {KindApp, func(r Record) { r.(*App).Keys[0].KeyID = "a.b" }, errs.InvalidName},
		"app: use":             {KindApp, func(r Record) { r.(*App).Keys[0].Use = "all" }, errs.InvalidBody},
		"app: secret as hash":  {KindApp, func(r Record) { r.(*App).Keys[0].Hash = "secret" }, errs.InvalidBody},
		"app: upper-case hash": {KindApp, func(r Record) { r.(*App).Keys[0].Hash = strings.Repeat("A", 64) }, errs.InvalidBody},

		"schema: gone":    {KindSchema, func(r Record) { s := r.(*Schema); s.Type, s.Text, s.Compatibility = "", "", "" }, nil},
		"schema: no text": {KindSchema, func(r Record) { r.(*Schema).Text = "" }, errs.InvalidBody},
		"schema: long":    {KindSchema, func(r Record) { r.(*Schema).Text = strings.Repeat("x", 48<<10+1) }, errs.InvalidBody},
		"schema: type":    {KindSchema, func(r Record) { r.(*Schema).Type = "xml" }, errs.InvalidBody},
		"schema: mode":    {KindSchema, func(r Record) { r.(*Schema).Compatibility = "" }, errs.InvalidBody},
		"schema: version": {KindSchema, func(r Record) { r.(*Schema).Version = 0 }, errs.InvalidBody},
		"schema: topic":   {KindSchema, func(r Record) { r.(*Schema).Name = "a.b" }, errs.InvalidName},

		"topic: most":             {KindTopic, func(r Record) { r.(*TopicRecord).Partitions = 10_000 }, nil},
		"topic: too many":         {KindTopic, func(r Record) { r.(*TopicRecord).Partitions = 10_001 }, errs.InvalidBody},
		"topic: none":             {KindTopic, func(r Record) { r.(*TopicRecord).Partitions = 0 }, errs.InvalidBody},
		"topic: default replicas": {KindTopic, func(r Record) { r.(*TopicRecord).Replicas = 0 }, nil},
		"topic: no limit":         {KindTopic, func(r Record) { r.(*TopicRecord).Retention = -1 }, nil},
		"topic: a minute":         {KindTopic, func(r Record) { r.(*TopicRecord).Retention = Duration(time.Minute) }, nil},
		"topic: 59 s":             {KindTopic, func(r Record) { r.(*TopicRecord).Retention = Duration(59 * time.Second) }, errs.InvalidBody},
		"topic: attempts":         {KindTopic, func(r Record) { r.(*TopicRecord).MaxAttempts = 1001 }, errs.InvalidBody},
		"topic: mapped":           {KindTopic, func(r Record) { t := r.(*TopicRecord); t.StoreTopic, t.Partitions = "legacy_Orders.x-1", 0 }, nil},
		"topic: internal":         {KindTopic, func(r Record) { r.(*TopicRecord).StoreTopic = "__consumer_offsets" }, errs.InvalidName},
		"topic: ours, retry":      {KindTopic, func(r Record) { r.(*TopicRecord).StoreTopic = "a.b.c.d.e.retry" }, errs.InvalidName},
		"topic: ours, dead":       {KindTopic, func(r Record) { r.(*TopicRecord).StoreTopic = "a.b.c.d.e.dead" }, errs.InvalidName},
		"topic: dots":             {KindTopic, func(r Record) { r.(*TopicRecord).StoreTopic = ".." }, errs.InvalidName},
		"topic: other cluster":    {KindTopic, func(r Record) { r.(*TopicRecord).StoreTopic = "west:orders" }, errs.InvalidName},

		"subscription: group":      {KindSubscription, func(r Record) { r.(*Subscription).Groups[0] = "a b" }, errs.InvalidName},
		"subscription: any group":  {KindSubscription, func(r Record) { r.(*Subscription).Groups = nil }, nil},
		"subscription: wide":       {KindSubscription, func(r Record) { r.(*Subscription).Spread["g2"] = 17 }, errs.InvalidBody},
		"subscription: narrow":     {KindSubscription, func(r Record) { r.(*Subscription).Spread["g2"] = 0 }, errs.InvalidBody},
		"subscription: subscriber": {KindSubscription, func(r Record) { r.(*Subscription).Subscriber = "a.b" }, errs.InvalidName},

		"cluster: default":        {KindCluster, func(r Record) { r.(*Cluster).Name = "default" }, errs.InvalidBody},
		"cluster: colon":          {KindCluster, func(r Record) { r.(*Cluster).Name = "a:b" }, errs.InvalidName},
		"cluster: no port":        {KindCluster, func(r Record) { r.(*Cluster).Brokers[0] = "k1" }, errs.InvalidBody},
		"cluster: port 0":         {KindCluster, func(r Record) { r.(*Cluster).Brokers[0] = "k1:0" }, errs.InvalidBody},
		"cluster: port 65536":     {KindCluster, func(r Record) { r.(*Cluster).Brokers[0] = "k1:65536" }, errs.InvalidBody},
		"cluster: no brokers":     {KindCluster, func(r Record) { r.(*Cluster).Brokers = nil }, errs.InvalidBody},
		"cluster: both":           {KindCluster, func(r Record) { r.(*Cluster).ZooKeeper = "z:2181" }, errs.InvalidBody},
		"cluster: ZooKeeper":      {KindCluster, func(r Record) { c := r.(*Cluster); c.Brokers, c.ZooKeeper = nil, "z1:2181,z2:2181/kafka/x" }, nil},
		"cluster: bad ZooKeeper":  {KindCluster, func(r Record) { c := r.(*Cluster); c.Brokers, c.ZooKeeper = nil, "z1:2181,/kafka" }, errs.InvalidBody},
		"admin key: role":         {KindAdminKey, func(r Record) { r.(*AdminKey).Role = "root" }, errs.InvalidBody},
		"admin key: hash":         {KindAdminKey, func(r Record) { r.(*AdminKey).Hash = "" }, errs.InvalidBody},
		"option: no value":        {KindOption, func(r Record) { r.(*Option).Value = nil }, errs.InvalidBody},
		"option: half a value":    {KindOption, func(r Record) { r.(*Option).Value = json.RawMessage(`{"a":`) }, errs.InvalidBody},
		"option: hidden":          {KindOption, func(r Record) { r.(*Option).Name = ".a" }, errs.InvalidName},
		"secret: short":           {KindSecret, func(r Record) { r.(*Secret).Current = make([]byte, 15) }, errs.InvalidBody},
		"secret: short, previous": {KindSecret, func(r Record) { r.(*Secret).Previous = make([]byte, 15) }, errs.InvalidBody},
		"secret: none previous":   {KindSecret, func(r Record) { r.(*Secret).Previous = nil }, nil},
	} {
		r := good()[c.kind]
		c.spoil(r)
		_, err := encode(r)
		if c.is == nil && err != nil || !errors.Is(err, c.is) {
			t.Errorf("%s: %v; want %v", what, err, c.is)
		}
	}
}

func TestDuration(t *testing.T) {
	for d, text := range map[time.Duration]string{
		0: "0s", -1: "-1ns", time.Minute: "1m", 168 * time.Hour: "168h", 90 * time.Second: "1m30s", 90 * time.Minute: "1h30m",
		time.Hour + time.Second: "1h0m1s", 10 * time.Second: "10s", 20 * time.Minute: "20m", 30 * time.Hour: "30h", 1500 * time.Millisecond: "1.5s",
	} {
		b, err := Duration(d).MarshalText()
		var back Duration
		if e := back.UnmarshalText(b); err != nil || e != nil || string(b) != text || back != Duration(d) {
			t.Errorf("%v is written %s and read %v, %v", d, b, time.Duration(back), errors.Join(err, e))
		}
	}
	var d Duration
	if err := d.UnmarshalText([]byte("168h0m0s")); err != nil || d != Duration(168*time.Hour) {
		t.Errorf("Go's own form: %v, %v", d, err)
	}
	for _, bad := range []string{"", "5", "a week", "1d"} {
		if err := d.UnmarshalText([]byte(bad)); !errors.Is(err, errs.InvalidBody) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestPlaces(t *testing.T) {
	for want, r := range map[string]TopicRecord{
		"shop.orders.v1":      {App: "shop", Name: "orders", Ver: "v1"},
		"legacy":              {App: "shop", Name: "orders", Ver: "v1", Cluster: DefaultCluster, StoreTopic: "legacy"},
		"east:shop.orders.v1": {App: "shop", Name: "orders", Ver: "v1", Cluster: "east"},
		"east:legacy":         {App: "shop", Name: "orders", Ver: "v1", Cluster: "east", StoreTopic: "legacy"},
	} {
		if got := r.Place(); got != want {
			t.Errorf("%s; want %s", got, want)
		}
	}
}

func TestSecrets(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		id, secret, hash := NewSecret()
		if len(secret) != len(id)+1+43 || SecretID(secret) != id || seen[id] || !CheckSecret(secret, hash) {
			t.Fatalf("%s: %s, %s", id, secret, hash)
		}
		seen[id] = true
		if strings.Contains(hash, secret) || CheckSecret(secret+"x", hash) || CheckSecret(secret, hash[:63]) || CheckSecret("", "") {
			t.Error("what is wrong is taken for right")
		}
		if err := (&AdminKey{KeyID: id, Role: RoleViewer, Hash: hash}).Validate(); err != nil {
			t.Error(err)
		}
	}
	for _, none := range []string{"", "abc", ".abc", "abc.", strings.Repeat("x", 1000) + ".abc"} {
		if id := SecretID(none); id != "" && none != ".abc" {
			t.Errorf("%.20s has the id %s", none, id)
		}
	}
}

func TestChangeCheck(t *testing.T) {
	id := ID{KindApp, "a"}
	a, b := []byte(`{"a":1}`), []byte(`{"b":1}`)
	for _, c := range []struct {
		present []byte
		change  Change
		want    error
	}{
		{nil, Change{id, Absent, a}, nil}, {a, Change{id, Absent, b}, errs.Conflict}, {nil, Change{id, "", nil}, errs.NotFound},
		{a, Change{id, "", nil}, nil}, {a, Change{id, ETag(a), b}, nil}, {a, Change{id, ETag(b), b}, errs.PreconditionFailed},
		{nil, Change{id, ETag(a), b}, errs.PreconditionFailed}, {a, Change{id, "", fmt.Appendf(nil, `{"x":"%065536d"}`, 1)}, errs.TooLarge},
		{nil, Change{id, "", []byte("x")}, errs.InvalidBody}, {nil, Change{ID{KindApp, "../a"}, "", a}, errs.InvalidName},
		{[]byte{}, Change{id, Absent, a}, errs.Conflict},
	} {
		if err := c.change.Check(c.present); c.want == nil && err != nil || !errors.Is(err, c.want) {
			t.Errorf("%s to %+v: %v; want %v", c.present, c.change.ID, err, c.want)
		}
	}
}

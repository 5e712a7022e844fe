package gateway

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestDefaultIsValid(t *testing.T) {
	c := Default()
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	if c.Pub != "127.0.0.1:9191" || c.Man != "127.0.0.1:9193" || c.MaxMessage != 1<<20 || c.DrainLimit != 30*time.Second || c.StoreKind() != "embedded" {
		t.Errorf("%+v", c)
	}
}

// faulty are the options that Validate names.
func faulty(t *testing.T, err error) (names []string) {
	t.Helper()
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatalf("%v joins nothing", err)
	}
	for _, e := range joined.Unwrap() {
		var f *Fault
		if !errors.As(e, &f) {
			t.Fatalf("%v is no Fault", e)
		}
		names = append(names, f.Option)
	}
	return names
}

func TestValidate(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Config)
		want   []string
	}{
		"port 0":                    {func(c *Config) { c.Pub = "127.0.0.1:0" }, nil},
		"IPv6 loopback":             {func(c *Config) { c.Pub = "[::1]:9191" }, nil},
		"localhost":                 {func(c *Config) { c.Man = "localhost:1" }, nil},
		"sub off":                   {func(c *Config) { c.Sub = "off" }, nil},
		"all off":                   {func(c *Config) { c.Pub, c.Man = "off", "off" }, []string{"pub"}},
		"all interfaces":            {func(c *Config) { c.Pub = ":9191" }, []string{"pub"}},
		"public":                    {func(c *Config) { c.Man = "10.0.0.1:9193" }, []string{"man"}},
		"a name":                    {func(c *Config) { c.Pub = "gateway.example:9191" }, []string{"pub"}},
		"public and insecure":       {func(c *Config) { c.Pub, c.Insecure = "0.0.0.0:9191", true }, nil},
		"no port":                   {func(c *Config) { c.Pub = "127.0.0.1" }, []string{"pub"}},
		"port too big":              {func(c *Config) { c.Pub = "127.0.0.1:70000" }, []string{"pub"}},
		"kafka":                     {func(c *Config) { c.Kafka = []string{"a:9092", "b:9092"} }, nil},
		"kafka without brokers":     {func(c *Config) { c.Store = "kafka" }, []string{"kafka"}},
		"brokers, embedded":         {func(c *Config) { c.Store, c.Kafka = "embedded", []string{"a:9092"} }, []string{"store"}},
		"broker without a port":     {func(c *Config) { c.Kafka = []string{"a"} }, []string{"kafka"}},
		"unknown store":             {func(c *Config) { c.Store = "redis" }, []string{"store"}},
		"codec":                     {func(c *Config) { c.KafkaCompression = "brotli" }, []string{"kafka-compression"}},
		"group protocol":            {func(c *Config) { c.KafkaGroups = "eager" }, []string{"kafka-group-protocol"}},
		"one TLS file":              {func(c *Config) { c.TLSKey = "k" }, []string{"tls-cert"}},
		"host with a scheme":        {func(c *Config) { c.Hosts = []string{"http://a"} }, []string{"hosts"}},
		"host with a port":          {func(c *Config) { c.Hosts = []string{"a:80"} }, []string{"hosts"}},
		"hosts":                     {func(c *Config) { c.Hosts = []string{"gw.example", "10.0.0.1", "::1"} }, nil},
		"origins":                   {func(c *Config) { c.Origins = []string{"https://a.example", "http://b:81"} }, nil},
		"any origin":                {func(c *Config) { c.Origins = []string{"*"} }, []string{"origins"}},
		"null origin":               {func(c *Config) { c.Origins = []string{"null"} }, []string{"origins"}},
		"origin with a path":        {func(c *Config) { c.Origins = []string{"https://a.example/"} }, []string{"origins"}},
		"origin in capitals":        {func(c *Config) { c.Origins = []string{"https://A.example"} }, []string{"origins"}},
		"public with auth":          {func(c *Config) { c.Pub, c.Man, c.Plugins = "0.0.0.0:9191", ":9193", []string{"auth"} }, nil},
		"unknown plugin":            {func(c *Config) { c.Plugins = []string{"auth", "quotas", "auth"} }, []string{"plugins", "plugins"}},
		"brokers in ZooKeeper":      {func(c *Config) { c.KafkaZK = "a:2181,b:2181/kafka" }, nil},
		"brokers twice":             {func(c *Config) { c.KafkaZK, c.Kafka = "a:2181", []string{"b:9092"} }, []string{"kafka-zk"}},
		"ZooKeeper, embedded":       {func(c *Config) { c.ZK = "a:2181" }, []string{"zk"}},
		"several gateways":          {func(c *Config) { several(c) }, nil},
		"no ZooKeeper server":       {func(c *Config) { several(c); c.ZK = "a b" }, []string{"zk"}},
		"peer without ZooKeeper":    {func(c *Config) { several(c); c.ZK = "" }, []string{"peer"}},
		"peer shares an address":    {func(c *Config) { several(c); c.Peer = c.Man }, []string{"peer"}},
		"peer unreachable":          {func(c *Config) { several(c); c.Peer, c.Advertise = "127.0.0.1:9195", "gw1.example" }, []string{"advertise"}},
		"peer on this machine":      {func(c *Config) { several(c); c.Peer, c.Advertise = "127.0.0.1:9195", "localhost" }, nil},
		"advertised URL":            {func(c *Config) { c.Advertise = "http://a" }, []string{"advertise"}},
		"one file of mutual TLS":    {func(c *Config) { c.PeerTLSCA = "ca" }, []string{"peer-tls-cert"}},
		"credentials for nobody":    {func(c *Config) { c.ZKAuthFile = "f" }, []string{"zk-auth-file"}},
		"zero":                      {func(c *Config) { c.MaxMessage, c.Partitions, c.PublishTimeout = 0, 0, 0 }, []string{"max-message", "partitions", "publish-timeout"}},
		"delay and grace too long":  {func(c *Config) { c.DrainDelay, c.DrainGrace = 20*time.Second, 11*time.Second }, []string{"drain-limit"}},
		"id":                        {func(c *Config) { c.ID = "a b" }, []string{"id"}},
		"log":                       {func(c *Config) { c.LogLevel, c.LogFormat = "loud", "xml" }, []string{"log-level", "log-format"}},
		"everything at once":        {func(c *Config) { *c = Config{Pub: "x", Man: "y", Store: "z"} }, nil},
		"no data directory, no log": {func(c *Config) { c.Data, c.LogLevel = "", "" }, []string{"data", "log-level"}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := Default()
			c.change(&cfg)
			got := faulty(t, cfg.Validate())
			if name == "everything at once" {
				if len(got) < 15 {
					t.Errorf("only %q", got)
				}
				return
			}
			slices.Sort(got)
			want := slices.Sorted(slices.Values(c.want))
			if !slices.Equal(got, want) {
				t.Errorf("faults of %q; want %q", got, want)
			}
		})
	}
}

func several(c *Config) {
	c.ZK, c.Kafka, c.Peer = "a:2181,b:2181/x", []string{"k:9092"}, "0.0.0.0:9195"
}

func TestPublicAddressSaysWhyAndHow(t *testing.T) {
	cfg := Default()
	cfg.Pub = "0.0.0.0:9191"
	if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), "--insecure") || !strings.Contains(err.Error(), "anybody") {
		t.Errorf("%v", err)
	}
}

func TestEndpoints(t *testing.T) {
	for name, c := range map[string]struct {
		pub, sub, man string
		want          string
	}{
		"defaults":      {"a:1", "", "a:2", "a:1=pub,sub a:2=man"},
		"all in one":    {"a:1", "a:1", "a:1", "a:1=pub,sub,man"},
		"each its own":  {"a:1", "a:2", "a:3", "a:1=pub a:2=sub a:3=man"},
		"free ports":    {"a:0", "", "a:0", "a:0=pub,sub a:0=man"},
		"three free":    {"a:0", "a:0", "a:0", "a:0=pub a:0=sub a:0=man"},
		"pub off":       {"off", "", "a:2", "a:2=man"},
		"pub off alone": {"off", "a:1", "off", "a:1=sub"},
		"man with sub":  {"a:1", "a:2", "a:2", "a:1=pub a:2=sub,man"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := Config{Pub: c.pub, Sub: c.sub, Man: c.man}
			var got []string
			for _, e := range cfg.endpoints() {
				got = append(got, e.addr+"="+join(e.roles))
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("%s; want %s", s, c.want)
			}
		})
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]Size{
		"0": 0, "17": 17, "17B": 17, "4KiB": 4096, "1MiB": 1 << 20, "2 GiB": 2 << 30,
		"": -1, "x": -1, "-1": -1, "1kb": -1, "1.5MiB": -1, "KiB": -1, "99999999999GiB": -1,
	} {
		var s Size
		err := s.UnmarshalText([]byte(text))
		if (err == nil) != (want >= 0) || err == nil && s != want {
			t.Errorf("%q: %d, %v", text, s, err)
		}
	}
	for s, want := range map[Size]string{0: "0", 17: "17", 4096: "4KiB", 1 << 20: "1MiB", 3 << 30: "3GiB", 1025: "1025"} {
		if s.String() != want {
			t.Errorf("%d: %q", int64(s), s)
		}
	}
}

func TestIsLoopback(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "LOCALHOST.": true, "app.localhost": true, "127.0.0.1": true, "127.9.9.9": true, "::1": true, "[::1]": true,
		"::ffff:127.0.0.1": true, "": false, "0.0.0.0": false, "::": false, "10.0.0.1": false, "localhost.evil.example": false,
		"127.0.0.1.evil.example": false, "evil-localhost": false, "127.1": false, "2130706433": false, "127.0.0.1%25": false,
	} {
		if isLoopback(host) != want {
			t.Errorf("%q: %v", host, !want)
		}
	}
}

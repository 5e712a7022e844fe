package gateway

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/kateway/kateway/internal/edge"
	"github.com/kateway/kateway/internal/zk"
	"github.com/kateway/kateway/plugins"
)

// Config is everything that can be set. The tags are the command line's: each field is a flag, a key of the
// configuration file and an environment variable, with this default and this explanation and no other.
type Config struct {
	Pub string `default:"127.0.0.1:9191" placeholder:"ADDR" help:"Where to publish. 'off' turns the role off, port 0 picks a free one and logs it (default: ${default})."`
	Sub string `placeholder:"ADDR" help:"Where to subscribe (default: the same as --pub)."`
	Man string `default:"127.0.0.1:9193" placeholder:"ADDR" help:"Management API, metrics, health, pprof (default: ${default})."`

	Store            string        `placeholder:"KIND" help:"embedded: on the local disk; kafka: the cluster (default: embedded, with --kafka kafka)."`
	Data             string        `default:"./kateway-data" placeholder:"DIR" help:"Directory of the embedded store, of the spool and idempotency keys, and of this gateway's own secret (default: ${default})."`
	Kafka            []string      `placeholder:"HOST:PORT" help:"Bootstrap brokers, comma separated; implies --store kafka."`
	KafkaZK          string        `name:"kafka-zk" placeholder:"HOST:PORT,.../PATH" help:"ZooKeeper of a Kafka that still has one: the brokers are found there, instead of by --kafka; implies --store kafka."`
	KafkaCompression string        `default:"lz4" placeholder:"CODEC" help:"Compression of what is produced to Kafka: none, gzip, snappy, lz4 or zstd (default: ${default})."`
	KafkaGroups      string        `name:"kafka-group-protocol" default:"auto" placeholder:"NAME" help:"How members of groups work with Kafka: classic, consumer (KIP-848, from Kafka 4.0 on), or auto, which is classic: it fails over faster (default: ${default})."`
	KafkaTLS         bool          `name:"kafka-tls" help:"Speak to Kafka's brokers over TLS. Their certificates are checked, for the host that each is named by."`
	KafkaTLSCA       string        `name:"kafka-tls-ca" placeholder:"FILE" help:"The authorities of the brokers' certificates, in PEM (default: the system's). A changed file of this or the next two holds for new connections."`
	KafkaTLSCert     string        `name:"kafka-tls-cert" placeholder:"FILE" help:"Certificate in PEM that is shown to brokers that ask for one."`
	KafkaTLSKey      string        `name:"kafka-tls-key" placeholder:"FILE" help:"Its private key in PEM."`
	KafkaSASL        string        `name:"kafka-sasl" placeholder:"NAME" help:"Tell Kafka's brokers who this is: plain (with --kafka-tls only, or on this machine), scram-sha-256 or scram-sha-512 (default: none)."`
	KafkaSASLFile    string        `name:"kafka-sasl-file" placeholder:"FILE" help:"File that holds user:password for --kafka-sasl. It is read for each new connection."`
	KafkaSASLDir     string        `name:"kafka-sasl-dir" placeholder:"DIR" help:"Directory with such a file for each further cluster that is registered with SASL, named as the cluster."`
	Partitions       int32         `default:"1" placeholder:"N" help:"Partitions of a topic made on first use in the embedded store (default: ${default})."`
	Retention        time.Duration `default:"168h" placeholder:"TIME" help:"How long a topic made on first use in the embedded store keeps its messages (default: ${default})."`

	Spool         string        `placeholder:"on|off" help:"on: publishes that Kafka can't take now are kept under --data and given to it in order when it can (default: on with Kafka; the embedded store has none)."`
	SpoolMaxBytes Size          `default:"1GiB" placeholder:"SIZE" help:"Most bytes in the spool; more is answered 503 (default: ${default})."`
	SpoolMaxAge   time.Duration `default:"24h" placeholder:"TIME" help:"A spooled message older than this is an alarm; nothing is dropped (default: ${default})."`

	ZK          string `name:"zk" placeholder:"HOST:PORT,.../PATH" help:"ZooKeeper servers, comma separated, with an optional path under which kateway keeps its own (/kateway without one): apps, topics and grants are then shared by all gateways that name it."`
	ZKAuthFile  string `name:"zk-auth-file" placeholder:"FILE" help:"File that holds user:password for ZooKeeper; nodes are then made so that nobody else can read them."`
	ZKTLS       bool   `name:"zk-tls" help:"Speak to ZooKeeper over TLS, also to that of --kafka-zk. The servers' certificates are checked, for the host that each is named by."`
	ZKTLSCA     string `name:"zk-tls-ca" placeholder:"FILE" help:"The authorities of the servers' certificates, in PEM (default: the system's). A changed file of this or the next two holds for new connections."`
	ZKTLSCert   string `name:"zk-tls-cert" placeholder:"FILE" help:"Certificate in PEM that is shown to ZooKeeper."`
	ZKTLSKey    string `name:"zk-tls-key" placeholder:"FILE" help:"Its private key in PEM."`
	Peer        string `default:"off" placeholder:"ADDR" help:"Listener for the other gateways only; needed with --zk where there are several (default: ${default})."`
	Advertise   string `placeholder:"HOST" help:"Host under which the other gateways reach this one (default: the address listened on, or the host name)."`
	PeerTLSCert string `name:"peer-tls-cert" placeholder:"FILE" help:"Certificate in PEM, of this gateway as server and as client of the others: gateways then know each other by mutual TLS instead of by the cluster's secret."`
	PeerTLSKey  string `name:"peer-tls-key" placeholder:"FILE" help:"Its private key in PEM."`
	PeerTLSCA   string `name:"peer-tls-ca" placeholder:"FILE" help:"The authority, in PEM, that every gateway's certificate must come from."`

	Plugins []string `default:"guard" placeholder:"NAME" help:"The plugin chain in order, comma separated; none for none. There are auth (apps show keys; without it the gateway is in open mode), quota, guard (holds off overload and bad clients), schema, transform (changes messages by rules), callout, audit (default: ${default})."`
	// PluginOptions are the options of plugins by their names, in the file only; OwnPlugins those that the gateway's own main brings.
	PluginOptions map[string]plugins.Options `kong:"-"`
	OwnPlugins    plugins.Table              `kong:"-"`
	PluginTimeout time.Duration              `default:"5s" placeholder:"TIME" help:"How long a plugin that is not kateway's own may take over a step of a request, which is then refused (default: ${default})."`

	AdminKeyFile string `placeholder:"FILE" help:"File that holds the key of the management API, asked for with --plugins auth (default: KATEWAY_ADMIN_KEY, else admin-key in the data directory, made by the first start)."`
	OpenMetrics  bool   `help:"Answer /metrics without a key, where auth asks for one."`

	ID       string   `placeholder:"NAME" help:"This gateway's id, unique in the cluster (default: host name and pub port)."`
	Hosts    []string `placeholder:"NAME" help:"Host names, besides loopback, under which it may be reached in open mode, comma separated."`
	Origins  []string `placeholder:"ORIGIN" help:"Web origins whose pages may use it, as https://app.example.com, comma separated."`
	Insecure bool     `help:"Allow open mode, in which anybody may do anything, on an address that is not loopback."`
	TLSCert  string   `name:"tls-cert" placeholder:"FILE" help:"Certificate chain in PEM; serves HTTPS. A changed file is taken within seconds."`
	TLSKey   string   `name:"tls-key" placeholder:"FILE" help:"Its private key in PEM."`

	RequireHTTPS             string   `name:"require-https" default:"off" placeholder:"WHO" help:"Who must use HTTPS: off, outer (whose address is neither loopback nor private) or always (default: ${default}). A request that a trusted proxy got over HTTPS counts."`
	TrustedProxies           []string `placeholder:"NETWORK" help:"Addresses or networks of proxies that are believed where a request comes from (X-Forwarded-For, X-Forwarded-Proto), comma separated."`
	ProxyProtocol            bool     `help:"Connections of trusted proxies begin with a header of the PROXY protocol, version 1 or 2."`
	MaxConnections           int64    `default:"0" placeholder:"N" help:"Most connections of clients; 0 is three quarters of the files that the process may open (default: ${default})."`
	MaxConnectionsPerAddress int64    `default:"0" placeholder:"N" help:"Most connections from one address, or from one /64 of IPv6; loopback and trusted proxies excepted; 0 is no limit (default: ${default})."`

	TLSClientCA   string `name:"tls-client-ca" placeholder:"FILE" help:"The authorities, in PEM, of certificates that clients of pub and sub may show: plugin auth maps their names to apps. A changed file is taken within seconds."`
	TLSClientAuth string `name:"tls-client-auth" default:"request" placeholder:"MODE" help:"request: a client may show a certificate; require: it must, also for /alive and /ready there (default: ${default})."`

	MaxMessage       Size          `default:"1MiB" placeholder:"SIZE" help:"Largest message (default: ${default})."`
	MaxKey           Size          `default:"4KiB" placeholder:"SIZE" help:"Largest partition key (default: ${default})."`
	MaxBatch         Size          `default:"16MiB" placeholder:"SIZE" help:"Largest body of a batch (default: ${default})."`
	MaxBatchMessages int           `default:"10000" placeholder:"N" help:"Most messages in a batch (default: ${default})."`
	MaxAsync         Size          `default:"64MiB" placeholder:"SIZE" help:"Most bytes that wait in memory after async=1 (default: ${default})."`
	PublishTimeout   time.Duration `default:"15s" placeholder:"TIME" help:"A publish without an outcome by then is answered 504 (default: ${default})."`

	MaxHeader         Size          `default:"32KiB" placeholder:"SIZE" help:"Largest request line with all header fields (default: ${default})."`
	MaxHeaderFields   int           `default:"64" placeholder:"N" help:"Most header fields of a request (default: ${default})."`
	ReadHeaderTimeout time.Duration `default:"10s" placeholder:"TIME" help:"How long a client may take over request line and header (default: ${default})."`
	ReadBodyTimeout   time.Duration `default:"1m" placeholder:"TIME" help:"How long a client may take over a request's body (default: ${default})."`
	MinBodyRate       Size          `default:"1KiB" placeholder:"SIZE" help:"Bytes a second that a body must come with, after its first 10 s; 0 is any (default: ${default})."`
	IdleTimeout       time.Duration `default:"2m" placeholder:"TIME" help:"How long a connection may stay without a request (default: ${default})."`

	DrainDelay time.Duration `default:"1s" placeholder:"TIME" help:"At a stop: how long new connections are still taken while /ready says no (default: ${default})."`
	DrainGrace time.Duration `default:"3s" placeholder:"TIME" help:"At a stop: over which time streams end and idle connections are closed (default: ${default})."`
	DrainLimit time.Duration `default:"30s" placeholder:"TIME" help:"At a stop: the longest that all of it may take (default: ${default})."`

	AccessLog       string `placeholder:"FILE" help:"Write a line per request to this file, when it is over; files of 100 MiB, the last ten are kept (default: none)."`
	AccessLogFormat string `default:"json" placeholder:"FORMAT" help:"Its lines: json or combined, as web servers write them (default: ${default})."`

	LogLevel  string `default:"info" placeholder:"LEVEL" help:"debug, info, warn or error (default: ${default})."`
	LogFormat string `placeholder:"FORMAT" help:"text or json (default: text on a terminal, else json)."`
}

// Default is what holds where nothing is set.
func Default() Config {
	var c Config
	if err := kong.ApplyDefaults(&c); err != nil {
		panic(err) // a tag above is malformed
	}
	return c
}

// StoreKind is the store that is meant: "embedded" or "kafka".
func (c *Config) StoreKind() string {
	switch {
	case c.Store != "":
		return c.Store
	case len(c.Kafka) > 0 || c.KafkaZK != "":
		return "kafka"
	}
	return "embedded"
}

// Open reports whether this is open mode: nobody is asked who he is.
func (c *Config) Open() bool {
	table := c.kinds()
	return !slices.ContainsFunc(c.chain(), func(name string) bool { return table[name].Identifies })
}

// Fault is one thing that is wrong with one option.
type Fault struct {
	Option string // the flag's name without dashes
	Err    error
}

func (f *Fault) Error() string { return f.Option + ": " + f.Err.Error() }
func (f *Fault) Unwrap() error { return f.Err }

// faults collects what is wrong, so that all of it is told at once.
type faults []error

func (f *faults) add(option, format string, args ...any) {
	*f = append(*f, &Fault{option, fmt.Errorf(format, args...)})
}

func (f *faults) unless(ok bool, option, format string, args ...any) {
	if !ok {
		f.add(option, format, args...)
	}
}

// Validate answers every fault at once, joined, each a *[Fault]; nil where there is none. It looks at nothing outside of c.
func (c *Config) Validate() error {
	var f faults
	c.checkAddresses(&f)
	c.checkStore(&f)
	c.checkCluster(&f)
	c.checkLinks(&f)
	c.checkPlugins(&f)
	c.checkWeb(&f)
	c.checkLimits(&f)
	c.checkTimes(&f)
	f.unless((c.TLSCert == "") == (c.TLSKey == ""), "tls-cert", "--tls-cert and --tls-key go together; one is missing")
	f.unless(c.TLSClientCA == "" || c.TLSCert != "", "tls-client-ca", "certificates are shown over TLS only; give --tls-cert and --tls-key")
	f.unless(c.TLSClientAuth == clientAuthRequest || c.TLSClientAuth == clientAuthRequire, "tls-client-auth", "%q is neither %s nor %s", c.TLSClientAuth, clientAuthRequest, clientAuthRequire)
	f.unless(c.TLSClientAuth != clientAuthRequire || c.TLSClientCA != "", "tls-client-auth", "there is no --tls-client-ca that certificates could be of")
	f.unless(c.ID == "" || idRule.MatchString(c.ID), "id", "%q must match %s", c.ID, idRule)
	f.unless(slices.Contains([]string{"json", "combined"}, c.AccessLogFormat), "access-log-format", "%q is neither json nor combined", c.AccessLogFormat)
	_, err := ParseLevel(c.LogLevel)
	f.unless(err == nil, "log-level", "%q is none of debug, info, warn, error", c.LogLevel)
	f.unless(slices.Contains([]string{"", "text", "json"}, c.LogFormat), "log-format", "%q is neither text nor json", c.LogFormat)
	return errors.Join(f...)
}

// The names that Validate knows.
var (
	idRule         = regexp.MustCompile(`^[A-Za-z0-9._-]{1,128}$`)
	hostRule       = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?$`)
	codecs         = []string{"none", "gzip", "snappy", "lz4", "zstd"} // read only
	groupProtocols = []string{"auto", "classic", "consumer"}           // read only
)

func (c *Config) checkAddresses(f *faults) {
	on := 0
	for _, r := range roles {
		addr := c.address(r)
		if addr == off {
			continue
		}
		on++
		if r == Sub && c.Sub == "" {
			continue // pub's, and told of there
		}
		host, port, err := net.SplitHostPort(addr)
		if err != nil {
			f.add(string(r), "%q is no address; write host:port, as 127.0.0.1:9191, or off", addr)
			continue
		}
		_, err = strconv.ParseUint(port, 10, 16)
		f.unless(err == nil, string(r), "%q: the port must be a number from 0 to 65535", addr)
		f.unless(c.Insecure || !c.Open() || isLoopback(host) || r == Peer, string(r), "%q is not a loopback address, and without authentication (open mode) anybody who reaches it "+
			"may publish, read and delete everything; listen on 127.0.0.1, ask for keys by --plugins auth, or say --insecure if that is what you want", addr)
	}
	f.unless(on > 0, "pub", "every role is off; there is nothing to serve")
}

// checkCluster looks at what makes several gateways one service.
func (c *Config) checkCluster(f *faults) {
	if c.ZK != "" {
		_, _, err := zk.ParseServers(c.ZK)
		f.unless(err == nil, "zk", "%v", err)
		f.unless(c.StoreKind() == "kafka", "zk", "ZooKeeper joins several gateways, and the embedded store is one machine's; name the brokers by --kafka")
	}
	f.unless(c.ZKAuthFile == "" || c.ZK != "", "zk-auth-file", "there is no --zk that it could be shown to")
	c.checkPeer(f)
	f.unless(c.Advertise == "" || hostRule.MatchString(c.Advertise) || isAddress(c.Advertise), "advertise", "%q is no host name; write it without scheme and port", c.Advertise)
}

func (c *Config) checkPeer(f *faults) {
	tls := 0
	for _, file := range []string{c.PeerTLSCert, c.PeerTLSKey, c.PeerTLSCA} {
		if file != "" {
			tls++
		}
	}
	f.unless(tls == 0 || tls == 3, "peer-tls-cert", "--peer-tls-cert, --peer-tls-key and --peer-tls-ca go together; one is missing")
	if c.address(Peer) == off {
		return
	}
	f.unless(c.ZK != "", "peer", "gateways find each other in ZooKeeper; name it by --zk, or leave --peer off")
	for _, r := range []Role{Pub, Sub, Man} {
		f.unless(c.address(r) != c.Peer || strings.HasSuffix(c.Peer, ":0"), "peer", "%q is the address of role %s; other gateways need one of their own", c.Peer, r)
	}
	host, _, err := net.SplitHostPort(c.Peer)
	f.unless(err != nil || !isLoopback(host) || c.Advertise == "" || isLoopback(c.Advertise), "advertise",
		"%q is told to the other gateways, but --peer %s can only be reached from this machine", c.Advertise, c.Peer)
}

func isAddress(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

func (c *Config) checkStore(f *faults) {
	switch c.StoreKind() {
	case "embedded":
		f.unless(c.Spool != "on", "spool", "the embedded store is on the same disk; a spool before it would help nobody")
		f.unless(len(c.Kafka) == 0 && c.KafkaZK == "", "store", "embedded, but --kafka or --kafka-zk names brokers; drop one of the two")
	case "kafka":
		f.unless(len(c.Kafka) > 0 || c.KafkaZK != "", "kafka", "--store kafka needs the brokers, as --kafka broker1:9092,broker2:9092")
		f.unless(len(c.Kafka) == 0 || c.KafkaZK == "", "kafka-zk", "the brokers are named by --kafka already; drop one of the two")
		if c.KafkaZK != "" {
			_, _, err := zk.ParseServers(c.KafkaZK)
			f.unless(err == nil, "kafka-zk", "%v", err)
		}
	default:
		f.add("store", "%q is neither embedded nor kafka", c.Store)
	}
	for _, b := range c.Kafka {
		host, port, err := net.SplitHostPort(b)
		f.unless(err == nil && host != "" && port != "", "kafka", "%q is no broker; write host:port", b)
	}
	f.unless(slices.Contains(codecs, c.KafkaCompression), "kafka-compression", "%q is none of %s", c.KafkaCompression, strings.Join(codecs, ", "))
	f.unless(slices.Contains(groupProtocols, c.KafkaGroups), "kafka-group-protocol", "%q is none of %s", c.KafkaGroups, strings.Join(groupProtocols, ", "))
	f.unless(slices.Contains([]string{"", "on", off}, c.Spool), "spool", "%q is neither on nor off", c.Spool)
	f.unless(c.SpoolMaxAge >= time.Second, "spool-max-age", "%v is below a second", c.SpoolMaxAge)
	f.unless(c.Data != "", "data", "a directory is needed")
	f.unless(c.Partitions >= 1 && c.Partitions <= 1000, "partitions", "%d is not between 1 and 1000", c.Partitions)
	f.unless(c.Retention >= time.Minute, "retention", "%v is below a minute", c.Retention)
}

func (c *Config) checkWeb(f *faults) {
	_, err := edge.ParseProxies(c.TrustedProxies)
	f.unless(err == nil, "trusted-proxies", "%v", err)
	f.unless(!c.ProxyProtocol || len(c.TrustedProxies) > 0, "proxy-protocol", "nobody is believed without --trusted-proxies; name the proxies there")
	f.unless(slices.Contains([]string{off, outer, always}, c.RequireHTTPS), "require-https", "%q is none of off, outer, always", c.RequireHTTPS)
	for _, h := range c.Hosts {
		_, err := netip.ParseAddr(h)
		f.unless(err == nil || hostRule.MatchString(h), "hosts", "%q is no host name; write it without scheme and port", h)
	}
	for _, o := range c.Origins {
		u, err := url.Parse(o)
		ok := err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && o == u.Scheme+"://"+u.Host && strings.ToLower(o) == o
		f.unless(ok, "origins", "%q is no web origin; write https://host or https://host:port in lower case, nothing behind it, no *", o)
	}
}

func (c *Config) checkLimits(f *faults) {
	for _, l := range []struct {
		option string
		v      int64
		lo, hi int64
	}{
		{"max-message", int64(c.MaxMessage), 1, 1 << 30},
		{"max-key", int64(c.MaxKey), 1, 1 << 20},
		{"max-batch", int64(c.MaxBatch), 1, 1 << 30},
		{"max-batch-messages", int64(c.MaxBatchMessages), 1, 1_000_000},
		{"max-async", int64(c.MaxAsync), 1, 1 << 40},
		{"spool-max-bytes", int64(c.SpoolMaxBytes), 1 << 20, 1 << 50},
		{"max-header", int64(c.MaxHeader), 1 << 10, 1 << 20},
		{"max-header-fields", int64(c.MaxHeaderFields), 8, 10_000},
		{"min-body-rate", int64(c.MinBodyRate), 0, 1 << 30},
		{"max-connections", c.MaxConnections, 0, 1 << 40},
		{"max-connections-per-address", c.MaxConnectionsPerAddress, 0, 1 << 40},
	} {
		f.unless(l.v >= l.lo && l.v <= l.hi, l.option, "%d is not between %d and %d", l.v, l.lo, l.hi)
	}
}

func (c *Config) checkTimes(f *faults) {
	for _, t := range []struct {
		option string
		v      time.Duration
		lo     time.Duration
	}{
		{"plugin-timeout", c.PluginTimeout, time.Millisecond},
		{"publish-timeout", c.PublishTimeout, time.Millisecond},
		{"read-header-timeout", c.ReadHeaderTimeout, time.Millisecond},
		{"read-body-timeout", c.ReadBodyTimeout, time.Millisecond},
		{"idle-timeout", c.IdleTimeout, time.Millisecond},
		{"drain-delay", c.DrainDelay, 0},
		{"drain-grace", c.DrainGrace, 0},
		{"drain-limit", c.DrainLimit, time.Millisecond},
	} {
		f.unless(t.v >= t.lo && t.v <= time.Hour, t.option, "%v is not between %v and 1h", t.v, t.lo)
	}
	f.unless(c.DrainDelay+c.DrainGrace <= c.DrainLimit, "drain-limit", "%v is shorter than --drain-delay and --drain-grace together", c.DrainLimit)
}

// ParseLevel reads the value of --log-level.
func ParseLevel(s string) (slog.Level, error) {
	var l slog.Level
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, s) {
		return l, fmt.Errorf("%q is no log level", s)
	}
	err := l.UnmarshalText([]byte(s))
	return l, err
}

// Size is a number of bytes.
type Size int64

// units are the suffixes that a Size may have, longest first.
var units = []struct {
	suffix string
	factor int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"B", 1}, {"", 1}} // read only

// UnmarshalText reads a number of bytes, or one with KiB, MiB or GiB behind it.
func (s *Size) UnmarshalText(b []byte) error {
	for _, u := range units {
		digits, ok := strings.CutSuffix(string(b), u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
		if err != nil || n < 0 || n > (1<<62)/u.factor {
			break
		}
		*s = Size(n * u.factor)
		return nil
	}
	return fmt.Errorf("%q is no size; write a number of bytes, or as 64KiB, 1MiB, 2GiB", b)
}

func (s Size) String() string {
	for _, u := range []int{2, 1, 0} {
		if f := units[u].factor; s != 0 && int64(s)%f == 0 {
			return strconv.FormatInt(int64(s)/f, 10) + units[u].suffix
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

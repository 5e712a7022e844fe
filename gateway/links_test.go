package gateway

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/kateway/kateway/internal/testkit"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/store"
	"github.com/kateway/kateway/store/kafka"
)

// securedKafka is a cluster with TLS that knows "me" by SCRAM; it answers options for it.
func securedKafka(t *testing.T) (Config, string) {
	t.Helper()
	a := testkit.NewAuthority(t)
	k, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.EnableSASL(), kfake.Superuser("SCRAM-SHA-512", "me", "hidden"), kfake.TLS(a.Server("127.0.0.1", time.Time{}, false)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	cfg := testConfig(t)
	cfg.Store, cfg.Kafka, cfg.KafkaTLS, cfg.KafkaTLSCA = "", k.ListenAddrs(), true, a.File
	cfg.KafkaSASL, cfg.KafkaSASLFile = kafka.SASLScramSHA512, filepath.Join(t.TempDir(), "sasl")
	return cfg, cfg.KafkaSASLFile
}

func writeText(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A password that the brokers do not take is told by the probe behind /ready and by the log, without the password; the right
// one, put into the file, ends it without a restart.
func TestReadyOfRefusedLink(t *testing.T) {
	cfg, file := securedKafka(t)
	writeText(t, file, "me:hiddenwrong\n")
	var lines safeBuffer
	s, err := openStore(t.Context(), &cfg, slog.New(slog.NewTextHandler(&lines, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	p := &part{name: "store", probe: s.Ping}
	h := &health{log: slog.New(slog.NewTextHandler(&lines, nil))}
	p.start()
	h.look(t.Context(), p)
	h.look(t.Context(), p)
	if v := p.verdict(); v != down {
		t.Errorf("the store is %s", v)
	}
	if text := lines.String(); strings.Contains(text, "hidden") || !strings.Contains(text, "part fails") || !strings.Contains(text, "credentials") {
		t.Errorf("the log has the secret, or not why:\n%s", text)
	}
	writeText(t, file, "me:hidden\n")
	h.look(t.Context(), p)
	if v := p.verdict(); v != ok {
		t.Errorf("with the right password the store is %s: %s", v, lines.String())
	}
	if err := s.CreateTopic(t.Context(), store.Topic{Name: "t", Partitions: 1}); err != nil {
		t.Error(err)
	}
}

func TestValidateLinks(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Config)
		want   []string
	}{
		"Kafka secured": {func(c *Config) {
			c.Kafka, c.KafkaTLS, c.KafkaTLSCA, c.KafkaTLSCert, c.KafkaTLSKey = []string{"a:1"}, true, "ca", "c", "k"
			c.KafkaSASL, c.KafkaSASLFile, c.KafkaSASLDir = "plain", "f", "d"
		}, nil},
		"every fault": {func(c *Config) {
			c.KafkaTLSCert, c.ZKTLS, c.ZKTLSKey, c.KafkaSASL, c.KafkaSASLDir = "c", true, "k", "gssapi", "d"
		}, []string{"kafka-tls", "kafka-tls-cert", "zk-tls-cert", "zk-tls", "kafka-sasl-dir", "kafka-sasl", "kafka-sasl", "kafka-sasl-file"}},
		"plain in clear":         {func(c *Config) { c.Kafka, c.KafkaSASL, c.KafkaSASLFile = []string{"127.0.0.1:1", "a:1"}, "plain", "f" }, []string{"kafka-sasl"}},
		"plain in clear by ZK":   {func(c *Config) { c.KafkaZK, c.KafkaSASL, c.KafkaSASLFile = "a:1", "plain", "f" }, []string{"kafka-sasl"}},
		"plain to this machine":  {func(c *Config) { c.Kafka, c.KafkaSASL, c.KafkaSASLFile = []string{"127.0.0.1:1"}, "plain", "f" }, nil},
		"SASL file without SASL": {func(c *Config) { c.Kafka, c.KafkaSASLFile = []string{"a:1"}, "f" }, []string{"kafka-sasl-file"}},
		"TLS to ZooKeeper":       {func(c *Config) { c.KafkaZK, c.ZKTLS, c.ZKTLSCA = "a:1", true, "ca" }, nil},
		"files for ZK alone":     {func(c *Config) { c.KafkaZK, c.ZKTLSCA = "a:1", "ca" }, []string{"zk-tls"}},
		"TLS to Kafka, embedded": {func(c *Config) { c.KafkaTLS = true }, []string{"kafka-tls"}},
	} {
		cfg := Default()
		c.change(&cfg)
		if got := faulty(t, cfg.Validate()); !slices.Equal(got, c.want) {
			t.Errorf("%s: faults of %q; want %q", name, got, c.want)
		}
	}
}

// Files that can't be used end the start, and the error names them.
func TestLinkFilesAreReadAtTheStart(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no credentials": func(c *Config) { c.KafkaSASLFile = filepath.Join(t.TempDir(), "absent") },
		"no authority":   func(c *Config) { c.KafkaTLSCA = filepath.Join(t.TempDir(), "absent") },
		"not in PEM":     func(c *Config) { c.KafkaTLSCA = c.KafkaSASLFile },
		"no key":         func(c *Config) { c.KafkaTLSCert, c.KafkaTLSKey = c.KafkaTLSCA, c.KafkaTLSCA },
		"none for ZooKeeper": func(c *Config) {
			c.Kafka, c.KafkaZK, c.ZKTLS, c.ZKTLSCA = nil, "127.0.0.1:1", true, filepath.Join(t.TempDir(), "absent")
		},
	} {
		cfg, file := securedKafka(t)
		writeText(t, file, "me:hidden")
		change(&cfg)
		s, err := openStore(t.Context(), &cfg, slog.New(slog.DiscardHandler))
		if err == nil {
			s.Close(t.Context())
		}
		if err == nil || strings.Contains(err.Error(), "hidden") || !strings.Contains(err.Error(), "Kafka") && !strings.Contains(err.Error(), "ZooKeeper") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A cluster is shown the credentials in the file of its name, and none else.
func TestCredentialsOfClusters(t *testing.T) {
	cfg, file := securedKafka(t)
	brokers := cfg.Kafka
	writeText(t, file, "me:hidden")
	west := &meta.Cluster{Name: "west", Brokers: brokers, TLS: true, SASL: kafka.SASLScramSHA512}
	if _, err := cfg.linkTo(west); err == nil || !strings.Contains(err.Error(), "--kafka-sasl-dir") {
		t.Errorf("without a directory: %v", err)
	}
	cfg.KafkaSASLDir = t.TempDir()
	l, err := cfg.linkTo(west)
	if err != nil || l.secret != filepath.Join(cfg.KafkaSASLDir, "west") {
		t.Fatalf("%+v, %v", l, err)
	}
	if _, err := openKafka(t.Context(), &cfg, l, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a cluster without a file of credentials is opened, with those of another")
	}
	writeText(t, l.secret, "me:hidden")
	s, err := openKafka(t.Context(), &cfg, l, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	if err := s.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	if l, err := cfg.linkTo(&meta.Cluster{Name: "east", Brokers: brokers}); err != nil || l.sasl != "" || l.secret != "" || l.tls {
		t.Errorf("a cluster that says nothing of it has %+v, %v", l, err)
	}
	for _, c := range []meta.Cluster{{Name: "../west"}, {Name: "west", SASL: "gssapi"}, {Name: "west", SASL: meta.SASLPlain}} {
		if c.Brokers = brokers; c.Validate() == nil {
			t.Errorf("%+v is taken", c)
		}
	}
}

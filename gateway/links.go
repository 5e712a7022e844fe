package gateway

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kateway/kateway/internal/links"
	"github.com/kateway/kateway/internal/zk"
	"github.com/kateway/kateway/internal/zkbrokers"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/store/kafka"
)

// kafkaLink is how a cluster is reached. All of it is operators' to say: of the configuration for the default cluster, of the
// cluster's record and of files beside the gateway for another one. Nothing that a tenant sends comes here.
type kafkaLink struct {
	brokers   []string
	zooKeeper string // instead of brokers
	tls       bool
	files     links.Files
	sasl      string // mechanism; "" = none
	secret    string // file of its credentials
}

func (c *Config) kafkaFiles() links.Files {
	return links.Files{CA: c.KafkaTLSCA, Cert: c.KafkaTLSCert, Key: c.KafkaTLSKey}
}

// defaultLink is the one to the default cluster.
func (c *Config) defaultLink() kafkaLink {
	return kafkaLink{brokers: c.Kafka, zooKeeper: c.KafkaZK, tls: c.KafkaTLS, files: c.kafkaFiles(), sasl: c.KafkaSASL, secret: c.KafkaSASLFile}
}

// linkTo is the one to a cluster that is registered. Its credentials are its own: those of another are never shown to it.
func (c *Config) linkTo(cluster *meta.Cluster) (kafkaLink, error) {
	l := kafkaLink{brokers: cluster.Brokers, zooKeeper: cluster.ZooKeeper, tls: cluster.TLS, files: c.kafkaFiles(), sasl: cluster.SASL}
	if l.sasl == "" {
		return l, nil
	}
	if c.KafkaSASLDir == "" {
		return l, fmt.Errorf("cluster %s wants SASL, and this gateway has no --kafka-sasl-dir with a file %s of its credentials", cluster.Name, cluster.Name)
	}
	l.secret = filepath.Join(c.KafkaSASLDir, cluster.Name) // its name has neither dots nor slashes
	return l, nil
}

// secure sets what the link needs in the store's configuration.
func (l *kafkaLink) secure(cfg *kafka.Config, log *slog.Logger) error {
	if l.tls {
		files, err := links.LoadTLS(l.files, log)
		if err != nil {
			return fmt.Errorf("TLS to Kafka: %w", err)
		}
		cfg.TLS = files.Config
	}
	if l.sasl != "" {
		credentials, err := links.LoadCredentials(l.secret, log)
		if err != nil {
			return fmt.Errorf("credentials for Kafka: %w", err)
		}
		cfg.SASL = &kafka.SASL{Mechanism: l.sasl, Credentials: credentials.Current}
	}
	return nil
}

// brokersFrom finds the brokers of a Kafka that keeps them in ZooKeeper.
func brokersFrom(ctx context.Context, c *Config, l *kafkaLink, log *slog.Logger) ([]string, error) {
	hosts, chroot, err := zk.ParseServers(l.zooKeeper)
	if err != nil {
		return nil, err
	}
	secured, err := zooKeeperTLS(c, log)
	if err != nil {
		return nil, err
	}
	session, err := zk.Open(zk.Config{Servers: hosts, Chroot: chroot, TLS: secured, Log: log})
	if err != nil {
		return nil, err
	}
	defer session.Close()
	brokers, err := zkbrokers.BrokersFromZooKeeper(ctx, session, zkbrokers.Protocol(l.tls, l.sasl != ""))
	if err != nil {
		return nil, fmt.Errorf("looking for Kafka's brokers in ZooKeeper %s: %w", l.zooKeeper, err)
	}
	return brokers, nil
}

// zooKeeperTLS is nil where ZooKeeper is spoken to in clear text.
func zooKeeperTLS(c *Config, log *slog.Logger) (func() *tls.Config, error) {
	if !c.ZKTLS {
		return nil, nil
	}
	files, err := links.LoadTLS(links.Files{CA: c.ZKTLSCA, Cert: c.ZKTLSCert, Key: c.ZKTLSKey}, log)
	if err != nil {
		return nil, fmt.Errorf("TLS to ZooKeeper: %w", err)
	}
	return files.Config, nil
}

// checkLinks looks at how Kafka and ZooKeeper are spoken to.
func (c *Config) checkLinks(f *faults) {
	checkTLS(f, "kafka-tls", c.KafkaTLS, c.kafkaFiles())
	checkTLS(f, "zk-tls", c.ZKTLS, links.Files{CA: c.ZKTLSCA, Cert: c.ZKTLSCert, Key: c.ZKTLSKey})
	isKafka := c.StoreKind() == "kafka"
	f.unless(!c.KafkaTLS || isKafka, "kafka-tls", "there is no Kafka that it could be for; name the brokers by --kafka")
	f.unless(!c.ZKTLS || c.ZK != "" || c.KafkaZK != "", "zk-tls", "there is neither --zk nor --kafka-zk that it could be for")
	f.unless(c.KafkaSASLDir == "" || c.ZK != "" || isKafka, "kafka-sasl-dir", "there is no Kafka that it could be for; name the brokers by --kafka")
	f.unless(c.KafkaSASLFile == "" || c.KafkaSASL != "", "kafka-sasl-file", "nothing is shown to the brokers without --kafka-sasl")
	if c.KafkaSASL == "" {
		return
	}
	f.unless(isKafka, "kafka-sasl", "there is no Kafka that it could be for; name the brokers by --kafka")
	f.unless(slices.Contains(kafka.SASLMechanisms(), c.KafkaSASL), "kafka-sasl", "%q is none of %s", c.KafkaSASL, strings.Join(kafka.SASLMechanisms(), ", "))
	f.unless(c.KafkaSASLFile != "", "kafka-sasl-file", "--kafka-sasl needs a file that holds user:password")
	f.unless(c.KafkaSASL != kafka.SASLPlain || c.KafkaTLS || c.brokersAreHere(), "kafka-sasl",
		"plain sends the password as it is, which without TLS anybody on the way can read; say --kafka-tls, or use %s", kafka.SASLScramSHA512)
}

// brokersAreHere is true where all are named, on this machine.
func (c *Config) brokersAreHere() bool {
	return len(c.Kafka) > 0 && !slices.ContainsFunc(c.Kafka, func(b string) bool {
		host, _, err := net.SplitHostPort(b)
		return err == nil && !isLoopback(host)
	})
}

// checkTLS looks at a link's files. One that is named and not used would be worse than none: somebody believes in it.
func checkTLS(f *faults, option string, on bool, files links.Files) {
	f.unless(on || files == links.Files{}, option, "--%[1]s-ca, --%[1]s-cert and --%[1]s-key are for nothing without --%[1]s", option)
	f.unless((files.Cert == "") == (files.Key == ""), option+"-cert", "--%[1]s-cert and --%[1]s-key go together; one is missing", option)
}

package gk

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/kateway/kateway/internal/testkit"
)

func newKafka(t *testing.T, topics ...string) string {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(2), kfake.SeedTopics(3, topics...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return strings.Join(c.ListenAddrs(), ", ")
}

func TestBrokers(t *testing.T) {
	env := []string{"KATEWAY_KAFKA=" + newKafka(t, "shop.orders.v1", "legacy")}
	o := invoke(t, env, "", "brokers")
	o.contains(t, exitFailed, "topics            2", "partitions        6", "BROKER  ADDRESS", "warning: the cluster has 2 broker(s)")
	if o.err != "" {
		t.Error(o.err)
	}
	o = invoke(t, env, "", "brokers", "-o", "json")
	var r clusterReport
	if err := json.Unmarshal([]byte(o.out), &r); err != nil || len(r.Brokers) != 2 || r.Topics != 2 || len(r.Warnings) == 0 {
		t.Errorf("%v, %s", err, o.out)
	}
}

func TestTopicsOfKafka(t *testing.T) {
	brokers := strings.ReplaceAll(newKafka(t, "shop.orders.v1", "legacy"), " ", "")
	o := invoke(t, nil, "", "topics", "ls", "--cluster", brokers)
	if legacy := o.fields(t, "legacy"); legacy[1] != "3" || o.code != 0 {
		t.Errorf("%+v", o)
	}
	o = invoke(t, nil, "", "topics", "ls", "--cluster", brokers, "-o", "json")
	var list []storeTopic
	if err := json.Unmarshal([]byte(o.out), &list); err != nil || len(list) != 2 || list[1].Name != "shop.orders.v1" || list[1].Partitions != 3 {
		t.Errorf("%v, %s", err, o.out)
	}
}

func TestKafkaAway(t *testing.T) {
	dead := deadAddress(t)
	for _, args := range [][]string{{"brokers", "--brokers", dead}, {"topics", "ls", "--cluster", dead}} {
		o := invoke(t, nil, "", append(args, "--timeout", "300ms")...)
		o.contains(t, exitUnreachable, "kafka ["+dead+"]")
	}
	f, _ := healthy(t)
	f.invoke(t, "doctor", "--brokers", dead, "--timeout", "300ms").contains(t, exitFailed, "can this machine reach them")
	f.invoke(t, "doctor", "--brokers", strings.ReplaceAll(newKafka(t, "shop.orders.v1"), " ", "")).contains(t, exitFailed, "2 brokers, and all partitions", "use three or more")
}

func TestSecuredKafka(t *testing.T) {
	a := testkit.NewAuthority(t)
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(3, "legacy"), kfake.EnableSASL(), kfake.Superuser("PLAIN", "me", "hidden"), kfake.TLS(a.Server("127.0.0.1", time.Time{}, false)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	brokers, file := strings.Join(c.ListenAddrs(), ","), filepath.Join(t.TempDir(), "sasl")
	if err := os.WriteFile(file, []byte("me:hidden\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := []string{"KATEWAY_KAFKA=" + brokers, "KATEWAY_KAFKA_TLS=true", "KATEWAY_KAFKA_TLS_CA=" + a.File, "KATEWAY_KAFKA_SASL=plain", "KATEWAY_KAFKA_SASL_FILE=" + file}
	invoke(t, env, "", "brokers").contains(t, exitFailed, "topics            1")
	invoke(t, nil, "", "topics", "ls", "--cluster", brokers, "--kafka-tls", "--kafka-tls-ca", a.File, "--kafka-sasl", "plain", "--kafka-sasl-file", file).contains(t, exitOK, "legacy")
	invoke(t, env[:1:1], "", "brokers", "--kafka-tls").contains(t, exitUnreachable, "unknown authority")
	invoke(t, env[:1:1], "", "brokers", "--kafka-tls-ca", a.File).contains(t, exitUsage, "for nothing without --kafka-tls")
	invoke(t, env[:1:1], "", "brokers", "--kafka-sasl", "plain").contains(t, exitUsage, "go together")
	if err := os.WriteFile(file, []byte("me:hiddenwrong\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	o := invoke(t, env, "", "brokers")
	if o.contains(t, exitUnreachable, "credentials"); strings.Contains(o.out+o.err, "hidden") {
		t.Errorf("the password is shown: %+v", o)
	}
}

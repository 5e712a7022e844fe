package gk

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
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

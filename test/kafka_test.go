package test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// kcat shares no code with this project: what it reads is what is in Kafka.
func TestKcatReadsWhatIsPublished(t *testing.T) {
	s := &site{"kafka", []string{"--data", t.TempDir(), "--kafka", brokers(t)}, appOf(t)}
	c := s.start(t).client(s.app)
	c.want(http.StatusCreated, "POST", "/v1/msgs/orders/v1?key=k1&partition=0", strings.NewReader("one"),
		"Content-Type", "text/plain", "X-Tag", "red", "X-Msg-Trace", "t-1")
	c.want(http.StatusCreated, "POST", "/v1/msgs/orders/v1?batch=lines&partition=0", strings.NewReader("two\nthree\n"))
	c.want(http.StatusCreated, "POST", "/v1/msgs/orders/v1?batch=objects", strings.NewReader(`{"key":"k1","partition":0,"value":null}`))
	got := cluster.Get(t).Kcat(t, "", "-C", "-t", s.app+".orders.v1", "-p", "0", "-e", "-q", "-f", "%o %k %h %S %s\n")
	want := "0 k1 content-type=text/plain,tags=red,trace=t-1 3 one\n1   3 two\n2   5 three\n3 k1  -1 \n"
	if got != want {
		t.Errorf("kcat reads\n%swant\n%s", got, want)
	}
}

func TestWhatKcatWritesIsDelivered(t *testing.T) {
	s := &site{"kafka", []string{"--data", t.TempDir(), "--kafka", brokers(t)}, appOf(t)}
	c := s.start(t).client(s.app)
	c.publish("orders", "", "the topic is made by this") // brokers make none
	kcat := func(stdin string, args ...string) {
		cluster.Get(t).Kcat(t, stdin, append([]string{"-P", "-t", s.app + ".orders.v1"}, args...)...)
	}
	st := c.stream("orders", "&reset=newest")
	kcat("by kcat", "-k", "k1", "-H", "tags=red", "-z", "gzip")
	if m := st.next(); m.text() != "by kcat" || m.Key != "k1" || fmt.Sprint(m.Headers["tags"]) != "red" {
		t.Errorf("got %+v", m)
	}
	kcat("k1:\n", "-K", ":", "-Z") // -Z: an empty value is null
	if m := st.next(); string(m.Value) != "null" || m.Key != "k1" {
		t.Errorf("got %+v; want a tombstone", m)
	}
}

// A key goes to the partition that Java's client, and kcat with its murmur2 partitioner, choose.
func TestKeysGoWhereKafkaClientsPutThem(t *testing.T) {
	s := &site{"kafka", []string{"--data", t.TempDir(), "--kafka", brokers(t)}, appOf(t)}
	c := s.start(t).client(s.app)
	partitions := map[int32]bool{}
	for i := range 12 {
		key := fmt.Sprint("key-", i)
		at := c.publish("keys", key, "ours")
		cluster.Get(t).Kcat(t, "theirs", "-P", "-t", s.app+".keys.v1", "-k", key, "-X", "topic.partitioner=murmur2")
		got := cluster.Get(t).Kcat(t, "", "-C", "-t", s.app+".keys.v1", "-e", "-q", "-f", "%p %k %s\n")
		if want := fmt.Sprintf("%d %s theirs\n", at.Partition, key); !strings.Contains(got, want) {
			t.Errorf("%s: ours is in partition %d; kcat sees\n%s", key, at.Partition, got)
		}
		partitions[at.Partition] = true
	}
	if len(partitions) < 2 {
		t.Errorf("all keys are in partitions %v; the test has shown nothing", partitions)
	}
}

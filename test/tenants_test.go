package test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/kateway/kateway/internal/testkit"
	"github.com/kateway/kateway/internal/zk"
)

// An operator adopts a topic that Kafka has already: nothing is made, native producers and consumers and those of the
// gateway see each other's records, and the end of the mapping ends nothing else.
func TestAdoptedTopic(t *testing.T) {
	t.Parallel()
	kafka := cluster.Get(t)
	name := fmt.Sprintf("native_%s", appOf(t))
	if _, err := kafka.Tool(t.Context(), "org.apache.kafka.tools.TopicCommand", "--create", "--topic", name, "--partitions", "2"); err != nil {
		t.Fatal(err)
	}
	kafka.Kcat(t, "before", "-P", "-t", name, "-k", "k", "-p", "1")
	g := launch(t, "--data", t.TempDir(), "--kafka", brokers(t))
	man, app := g.manager(), appOf(t)
	topic := map[string]any{"app": app, "topic": "orders", "ver": "v1", "store_topic": name}
	man.send(http.StatusNotFound, "POST", "/v1/topics", map[string]any{"app": app, "topic": "orders", "ver": "v1", "store_topic": name + "-none"})
	man.send(http.StatusBadRequest, "POST", "/v1/topics", map[string]any{"app": app, "topic": "orders", "ver": "v1", "store_topic": "__consumer_offsets"})
	man.send(http.StatusCreated, "POST", "/v1/topics", topic)
	c := g.client(app)
	st := c.stream("orders", "")
	if m := st.next(); m.text() != "before" || m.Key != "k" || m.Partition != 1 {
		t.Errorf("got %+v", m)
	}
	kafka.Kcat(t, "by kcat", "-P", "-t", name, "-p", "0")
	if m := st.next(); m.text() != "by kcat" {
		t.Errorf("got %+v", m)
	}
	c.want(http.StatusCreated, "POST", "/v1/msgs/orders/v1?partition=0", strings.NewReader("by the gateway"))
	if m := st.next(); m.text() != "by the gateway" {
		t.Errorf("got %+v", m)
	}
	st.close()
	if got := kafka.Kcat(t, "", "-C", "-t", name, "-p", "0", "-e", "-q", "-f", "%s\n"); got != "by kcat\nby the gateway\n" {
		t.Errorf("kcat reads %q", got)
	}
	man.want(http.StatusNoContent, "DELETE", "/v1/topics/"+app+"/orders/v1", nil)
	if got := kafka.Kcat(t, "", "-C", "-t", name, "-p", "1", "-e", "-q", "-f", "%s\n"); got != "before\n" {
		t.Errorf("after the end of the mapping kcat reads %q", got)
	}
}

// An app lives on a cluster of its own: its topics are made there, and nowhere else.
func TestTwoClusters(t *testing.T) {
	t.Parallel()
	west := testkit.Kafka(t)
	g := launch(t, "--data", t.TempDir(), "--kafka", brokers(t))
	man, app := g.manager(), appOf(t)
	man.send(http.StatusCreated, "POST", "/v1/clusters", map[string]any{"cluster": "west", "brokers": west.Addrs()})
	man.send(http.StatusCreated, "POST", "/v1/apps", map[string]any{"app": app, "cluster": "west"})
	man.send(http.StatusCreated, "POST", "/v1/topics", map[string]any{"app": app, "topic": "orders", "ver": "v1", "partitions": 2, "replicas": 1})
	c := g.client(app)
	at := c.publish("orders", "k", "hello")
	if got := c.pollUntil(1, "orders", "")[0]; got.text() != "hello" || got.placed != at {
		t.Errorf("got %+v", got)
	}
	if got := west.Kcat(t, "", "-C", "-t", app+".orders.v1", "-e", "-q", "-f", "%k %s\n"); got != "k hello\n" {
		t.Errorf("in the cluster is %q", got)
	}
	if all := cluster.Get(t).Kcat(t, "", "-L"); strings.Contains(all, app) {
		t.Error("the default cluster has the topic too")
	}
	man.send(http.StatusOK, "PUT", "/v1/groups/"+app+"/orders/v1/g/offsets", map[string]any{"to": "oldest"})
	if got := c.pollUntil(1, "orders", "")[0]; got.text() != "hello" {
		t.Errorf("after the seek: %+v", got)
	}
	man.want(http.StatusConflict, "DELETE", "/v1/clusters/west", nil)
	man.want(http.StatusNoContent, "DELETE", "/v1/topics/"+app+"/orders/v1", nil)
	man.want(http.StatusNoContent, "DELETE", "/v1/apps/"+app, nil)
	man.want(http.StatusNoContent, "DELETE", "/v1/clusters/west", nil)
}

// The brokers of a Kafka that still has a ZooKeeper are found there.
func TestBrokersInZooKeeper(t *testing.T) {
	t.Parallel()
	addr := testkit.ZooKeeper(t)
	c, err := zk.Open(zk.Config{Servers: []string{addr}, Chroot: "/kafka", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	host, port, err := net.SplitHostPort(cluster.Get(t).Addrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	node, err := json.Marshal(map[string]any{"version": 5, "host": host, "port": json.Number(port), "endpoints": []string{"PLAINTEXT://" + host + ":" + port}})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Create(t.Context(), "/brokers/ids/1", node); err != nil {
		t.Fatal(err)
	}
	app := appOf(t)
	launch(t, "--data", t.TempDir(), "--kafka-zk", addr+"/kafka").client(app).publish("orders", "", "hello")
	if got := cluster.Get(t).Kcat(t, "", "-C", "-t", app+".orders.v1", "-e", "-q", "-f", "%s\n"); got != "hello\n" {
		t.Errorf("in Kafka is %q", got)
	}
}

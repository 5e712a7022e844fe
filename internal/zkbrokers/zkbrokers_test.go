package zkbrokers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/testkit"
	"github.com/kateway/kateway/internal/zk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// nodes are brokers' nodes as Kafka writes them, by its version.
var nodes = map[string]string{
	"3.x": `{"features":{},"listener_security_protocol_map":{"PLAINTEXT":"PLAINTEXT"},"endpoints":["PLAINTEXT://kafka1:9092"],"jmx_port":-1,"port":9092,"host":"kafka1","version":5,"timestamp":"1700000000000"}`,
	"own listener names": `{"listener_security_protocol_map":{"IN_TLS":"SSL","OUT_SIDE":"SASL_PLAINTEXT","IN_SIDE":"PLAINTEXT"},
		"endpoints":["IN_TLS://kafka1:9090","OUT_SIDE://public:9091","IN_SIDE://[fd00::1]:9092"],"port":-1,"host":null,"version":4}`,
	"0.10":       `{"jmx_port":-1,"timestamp":"1466000000000","endpoints":["SSL://kafka1:9093","PLAINTEXT://kafka1:9092"],"host":"kafka1","version":3,"port":9092}`,
	"0.8":        `{"jmx_port":-1,"timestamp":"1390000000000","host":"kafka1","version":1,"port":9092}`,
	"TLS alone":  `{"listener_security_protocol_map":{"SSL":"SSL"},"endpoints":["SSL://kafka1:9093"],"port":-1,"host":null,"version":4}`,
	"a misnomer": `{"listener_security_protocol_map":{"PLAINTEXT":"SSL"},"endpoints":["PLAINTEXT://kafka1:9093"],"port":-1,"host":null,"version":4}`,
	"no port":    `{"endpoints":["PLAINTEXT://kafka1"],"version":4}`,
	"nothing":    `{}`,
	"garbage":    `kafka1:9092`,
	"empty":      ``,
}

func TestAddress(t *testing.T) {
	for version, want := range map[string]string{
		"3.x": "kafka1:9092", "own listener names": "[fd00::1]:9092", "0.10": "kafka1:9092", "0.8": "kafka1:9092",
		"TLS alone": "", "a misnomer": "", "no port": "", "nothing": "", "garbage": "", "empty": "",
	} {
		if got, err := address([]byte(nodes[version]), plaintext); got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v; want %q", version, got, err, want)
		}
	}
}

// With TLS or SASL the listeners that have it are taken, and no other.
func TestAddressOfSecuredListener(t *testing.T) {
	for _, c := range []struct {
		tls, sasl     bool
		version, want string
	}{
		{true, false, "own listener names", "kafka1:9090"}, {false, true, "own listener names", "public:9091"}, {true, true, "own listener names", ""},
		{true, false, "0.10", "kafka1:9093"}, {true, false, "TLS alone", "kafka1:9093"}, {true, false, "3.x", ""}, {true, false, "0.8", ""},
	} {
		if got, err := address([]byte(nodes[c.version]), Protocol(c.tls, c.sasl)); got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s of %s: %q, %v; want %q", Protocol(c.tls, c.sasl), c.version, got, err, c.want)
		}
	}
}

// tree is a ZooKeeper with one folder.
type tree struct {
	list  []string
	nodes map[string]string
	err   error
}

func (z *tree) Children(context.Context, string) ([]string, error) { return z.list, z.err }

func (z *tree) Get(_ context.Context, path string) ([]byte, int32, error) {
	data, there := z.nodes[strings.TrimPrefix(path, brokerIDs+"/")]
	if !there {
		return nil, 0, fmt.Errorf("%s: %w", path, errs.NotFound)
	}
	return []byte(data), 0, nil
}

func TestFaults(t *testing.T) {
	for name, test := range map[string]struct {
		z    tree
		want []string // nil: Unavailable
	}{
		"sorted by number, not by name": {tree{list: []string{"10", "9"}, nodes: map[string]string{"9": nodes["3.x"], "10": nodes["0.8"]}}, []string{"kafka1:9092", "kafka1:9092"}},
		"one went since":                {tree{list: []string{"1", "2"}, nodes: map[string]string{"2": nodes["0.8"]}}, []string{"kafka1:9092"}},
		"one is no use":                 {tree{list: []string{"1", "2"}, nodes: map[string]string{"1": nodes["garbage"], "2": nodes["0.8"]}}, []string{"kafka1:9092"}},
		"none is of use":                {tree{list: []string{"1"}, nodes: map[string]string{"1": nodes["TLS alone"]}}, nil},
		"no broker":                     {tree{}, nil},
		"no Kafka":                      {tree{err: fmt.Errorf("%s: %w", brokerIDs, errs.NotFound)}, nil},
		"no ZooKeeper":                  {tree{err: fmt.Errorf("down: %w", errs.Unavailable)}, nil},
	} {
		got, err := BrokersFromZooKeeper(t.Context(), &test.z, plaintext)
		if !slices.Equal(got, test.want) || (err == nil) != (test.want != nil) || err != nil && !errors.Is(err, errs.Unavailable) {
			t.Errorf("%s: %q, %v; want %q", name, got, err, test.want)
		}
	}
}

// TestZooKeeper: in a real one, under Kafka's chroot.
func TestZooKeeper(t *testing.T) {
	c, err := zk.Open(zk.Config{Servers: []string{testkit.ZooKeeper(t)}, Chroot: "/kafka", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		s, changed := c.State()
		if s.Connected {
			break
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatal("no connection")
		}
	}
	if _, err := BrokersFromZooKeeper(ctx, c, plaintext); !errors.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), "chroot") {
		t.Errorf("without a broker: %v", err)
	}
	for id, node := range map[string]string{
		"2": strings.ReplaceAll(nodes["3.x"], "kafka1", "kafka2"), "11": nodes["own listener names"], "1": nodes["0.10"], "3": nodes["TLS alone"],
	} {
		if err := c.CreateEphemeral(ctx, brokerIDs+"/"+id, []byte(node)); err != nil {
			t.Fatal(err)
		}
	}
	got, err := BrokersFromZooKeeper(ctx, c, plaintext)
	if want := []string{"kafka1:9092", "kafka2:9092", "[fd00::1]:9092"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("brokers are %q, %v; want %q", got, err, want)
	}
}

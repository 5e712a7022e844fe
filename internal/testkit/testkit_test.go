package testkit

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
)

func TestKafkaSurvivesKillAndFreeze(t *testing.T) {
	c := Kafka(t)
	if _, err := c.Tool(t.Context(), "org.apache.kafka.tools.TopicCommand", "--create", "--topic", "t"); err != nil {
		t.Fatal(err)
	}
	c.Kcat(t, "hello", "-P", "-t", "t", "-p", "0", "-k", "key", "-H", "h=v")

	c.Kill(0)
	if conn, err := net.Dial("tcp", c.Addrs()[0]); err == nil {
		conn.Close()
		t.Fatal("a killed broker still listens")
	}
	if err := c.Restart(0); err != nil {
		t.Fatal(err)
	}
	got := c.Kcat(t, "", "-C", "-t", "t", "-e", "-q", "-f", "%p %o %k %h %s\n")
	if got != "0 0 key h=v hello\n" {
		t.Errorf("after kill and restart kcat reads %q", got)
	}

	if err := c.Stop(0); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if out, err := c.Tool(ctx, "org.apache.kafka.tools.TopicCommand", "--list"); err == nil {
		t.Errorf("a frozen broker answers: %s", out)
	}
	if err := c.Cont(0); err != nil {
		t.Fatal(err)
	}
	if out, err := c.Tool(t.Context(), "org.apache.kafka.tools.TopicCommand", "--list"); err != nil || strings.TrimSpace(out) != "t" {
		t.Errorf("after the freeze: %q, %v", out, err)
	}
}

func TestZooKeeperAnswers(t *testing.T) {
	conn, events, err := zk.Connect([]string{ZooKeeper(t)}, 5*time.Second, zk.WithLogInfo(false))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for e := range events {
		if e.State == zk.StateHasSession {
			break
		}
	}
	if _, err := conn.Create("/x", []byte("y"), 0, zk.WorldACL(zk.PermAll)); err != nil {
		t.Fatal(err)
	}
	if b, _, err := conn.Get("/x"); err != nil || string(b) != "y" {
		t.Errorf("read back %q, %v", b, err)
	}
}

func TestPolicy(t *testing.T) {
	t.Setenv(policyEnv, "off")
	if err := wanted("java"); !errors.Is(err, ErrMissing) {
		t.Errorf("off: %v, want ErrMissing", err)
	}
	t.Setenv(policyEnv, "")
	if err := wanted("no-such-program"); !errors.Is(err, ErrMissing) {
		t.Errorf("a missing program: %v, want ErrMissing", err)
	}
	if err := wanted("sh"); err != nil {
		t.Errorf("a program that is there: %v", err)
	}
}

// probe stands for the test that lacks something.
type probe struct {
	testing.TB
	fatal, skipped bool
}

func (p *probe) Helper()               {}
func (p *probe) Name() string          { return "TestProbe" }
func (p *probe) Fatalf(string, ...any) { p.fatal = true; panic(p) }
func (p *probe) Skipf(string, ...any)  { p.skipped = true; panic(p) }

// outcome is what Missing does to a test under the policy.
func outcome(t *testing.T, policy string) (p *probe) {
	t.Setenv(policyEnv, policy)
	defer func() { p, _ = recover().(*probe) }()
	Missing(&probe{TB: t}, "Kafka", ErrMissing)
	return nil
}

func TestMissingSkipsAndIsRecordedOrFails(t *testing.T) {
	file := filepath.Join(t.TempDir(), "notcovered")
	t.Setenv(notCoveredEnv, file)
	for _, policy := range []string{"", "off"} {
		if p := outcome(t, policy); p == nil || !p.skipped {
			t.Errorf("policy %q: not skipped", policy)
		}
	}
	if p := outcome(t, "require"); p == nil || !p.fatal {
		t.Error("policy require: not failed")
	}
	b, err := os.ReadFile(file)
	if err != nil || strings.Count(string(b), "TestProbe: no Kafka") != 2 {
		t.Errorf("recorded %q, %v; want a line for each skip", b, err)
	}
}

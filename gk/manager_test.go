package gk

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/julienschmidt/httprouter"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/httpx"
	"github.com/kateway/kateway/internal/online"
	"github.com/kateway/kateway/manager"
	"github.com/kateway/kateway/meta"
	metamem "github.com/kateway/kateway/meta/mem"
	"github.com/kateway/kateway/peer"
	"github.com/kateway/kateway/registry"
	"github.com/kateway/kateway/store"
	"github.com/kateway/kateway/store/mem"
)

// alone is a gateway without clients.
type alone struct{}

func (alone) Clients(context.Context) ([]online.Client, error)        { return nil, nil }
func (alone) Group(context.Context, group.Key) (group.Info, error)    { return group.Info{}, nil }
func (alone) Suspend(context.Context, group.Key, time.Duration) error { return nil }
func (alone) Resume(context.Context, group.Key) error                 { return nil }
func (alone) Refresh(context.Context) error                           { return nil }
func (alone) Requeued(context.Context, group.Key) error               { return nil }

type unseen struct{}

func (unseen) Observe(*http.Request, string, int, int64, time.Duration) {}

type nothing struct{}

func (nothing) Forget(meta.Topic) {}

// managed is the real management API, on a store and a meta in memory.
type managed struct {
	url, key string
	store    *mem.Store
}

func newManaged(t *testing.T) *managed {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	source, s := metamem.New(), mem.New()
	d := meta.NewDirectory(meta.Config{Source: source, Log: log})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = d.Run(ctx) }()
	_, key, hash := meta.NewSecret()
	var level slog.LevelVar
	h := manager.New(manager.Config{
		ID: "gw1", Meta: d, Store: s, Topics: nothing{}, Self: alone{}, AdminKeyHash: hash,
		Peers:    func() []peer.Member { return nil },
		Gateways: func() []registry.Instance { return []registry.Instance{{ID: "gw1", Version: "v1"}} },
		Status:   func(context.Context) manager.Status { return manager.Status{ID: "gw1", Version: "v1"} },
		Options:  manager.NewOptions(log, manager.LogLevel(&level, func() string { return "info" })),
		Log:      log, Metrics: prometheus.NewRegistry(),
	})
	router := httprouter.New()
	for _, r := range h.Routes() {
		router.Handle(r.Method, r.Path, (&httpx.Shell{Log: log, Seen: unseen{}}).Wrap(r.Path, r.Handler).Serve)
	}
	srv := httptest.NewServer(router)
	t.Cleanup(func() {
		srv.Close()
		cancel()
		<-done
		_ = source.Close()
		_ = s.Close(context.Background())
	})
	<-d.Loaded()
	return &managed{srv.URL, key, s}
}

func (m *managed) gk(t *testing.T, args string) outcome {
	t.Helper()
	return invoke(t, []string{"KATEWAY_MAN=" + m.url, "KATEWAY_ADMIN_KEY=" + m.key}, "", strings.Fields(args)...)
}

// must makes a runner of commands that have to succeed and to say these.
func (m *managed) must(t *testing.T) func(args string, parts ...string) outcome {
	return func(args string, parts ...string) outcome {
		t.Helper()
		o := m.gk(t, args)
		o.contains(t, exitOK, parts...)
		if o.code != 0 {
			t.Fatalf("gk %s", args)
		}
		return o
	}
}

// What gk asks for is what the management API knows, from an app's begin to its end.
func TestOnTheRealAPI(t *testing.T) {
	m := newManaged(t)
	ok := m.must(t)
	ok("apps add shop --description x --limit streams=5 --limit burst=2s", "limits.streams", "etag")
	ok("apps add bill --class premium")
	ok("apps set shop --disabled --class besteffort", "besteffort")
	ok("apps set shop --no-disabled --limit streams=7", "7")
	if o := ok("apps ls"); o.fields(t, "shop")[3] != "false" {
		t.Error(o.out)
	}
	tag := ok("apps get shop").fields(t, "etag")[1]
	ok("apps set shop --description y --if-match " + tag)
	m.gk(t, "apps set shop --description z --if-match "+tag).contains(t, 1, "412", "new ETag")

	key := ok("keys add shop --use pub --name ci --expires 24h").fields(t, "key")[1]
	if o := ok("keys ls shop", "ci", "pub"); strings.Contains(o.out, key) {
		t.Error("the secret is shown again")
	}
	id, _, _ := strings.Cut(key, ".")
	ok("keys rm shop " + id)
	m.gk(t, "keys rm shop "+id).contains(t, 1, "404")

	ok("topics add shop/orders/v1 --partitions 2 --retention 24h --max-attempts 3", "partitions")
	m.gk(t, "topics add shop/orders/v1").contains(t, 1, "409")
	ok("topics set shop/orders/v1 --partitions 3 --retention none")
	m.gk(t, "topics set shop/orders/v1 --partitions 1").contains(t, 1, "400")
	if o := ok("topics ls"); o.fields(t, "shop/orders/v1")[2] != "3" || o.fields(t, "shop/orders/v1")[4] != "none" {
		t.Error(o.out)
	}
	m.gk(t, "apps rm shop").contains(t, 1, "409")
	if err := m.store.CreateTopic(t.Context(), store.Topic{Name: "legacy", Partitions: 1}); err != nil {
		t.Fatal(err)
	}
	ok("topics map shop/old/v1 legacy", "legacy")

	ok("subs grant shop/orders/v1 bill --group billing --spread billing=2")
	ok("subs ls --subscriber bill", "billing")
	ok("subs revoke shop/orders/v1 bill", "no longer")

	m.messages(t, "shop.orders.v1")
	ok("peek shop/orders/v1 --partition 1 -n 2", "message 1", "message 4")
	ok("tail shop/orders/v1 -n 100 --limit 9", "message 0", "message 8")
	ok("groups seek shop/orders/v1 bill.billing --to oldest")
	ok("offsets set shop/orders/v1 bill.billing 0=2 1=1")
	if o := ok("lag shop/orders/v1"); o.fields(t, "bill.billing")[2] != "6" {
		t.Error(o.out)
	}
	if o := ok("offsets show shop/orders/v1 bill.billing"); o.fields(t, "0")[3] != "2" {
		t.Error(o.out)
	}
	ok("groups ls shop/orders/v1", "bill.billing")
	ok("groups get shop/orders/v1 bill.billing", "lag")
	m.gk(t, "lag shop/orders/v1 --over 5").contains(t, 1, "6 messages behind")
	ok("groups rm shop/orders/v1 bill.billing", "forgotten")

	ok("topics rm shop/old/v1 --yes")
	ok("topics rm shop/orders/v1 --yes")
	ok("apps rm shop")
}

// The same for what belongs to no app.
func TestOperationOnTheRealAPI(t *testing.T) {
	m := newManaged(t)
	ok := m.must(t)
	ok("options ls", "log_level")
	ok("options set log_level debug")
	ok("options get log_level", "debug")
	m.gk(t, "options set log_level loud").contains(t, 1, "400")
	viewer := ok("adminkeys add viewer --name grafana").fields(t, "key")[1]
	ok("adminkeys ls", "grafana")
	o := invoke(t, []string{"KATEWAY_MAN=" + m.url, "KATEWAY_ADMIN_KEY=" + viewer}, "", "refresh")
	o.contains(t, 1, "403")
	id, _, _ := strings.Cut(viewer, ".")
	ok("adminkeys rm " + id)

	ok("gateways", "gw1")
	ok("clients", "GATEWAY")
	ok("clusters add east --bootstrap e1:9092,e2:9092")
	ok("clusters set east --zookeeper z1:2181/kafka", "z1:2181/kafka")
	ok("clusters ls", "z1:2181/kafka")
	ok("clusters get east")
	ok("clusters rm east")
	ok("refresh")
	invoke(t, []string{"KATEWAY_MAN=" + m.url}, "", "apps", "ls").contains(t, 1, "401", "KATEWAY_ADMIN_KEY")
}

// messages are three in each of three partitions.
func (m *managed) messages(t *testing.T, topic string) {
	t.Helper()
	for i := range 9 {
		msg := &store.Message{Value: fmt.Appendf(nil, "message %d", i), Partition: int32(i % 3)}
		if err := m.store.Publish(t.Context(), topic, store.AckAll, msg); err != nil {
			t.Fatal(err)
		}
	}
}

// Bash itself completes by the script.
func TestCompletionInBash(t *testing.T) {
	shell, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("there is no bash")
	}
	script := invoke(t, nil, "", "completion", "bash").out
	for typed, want := range map[string]string{
		"gk ap":                                  "apps",
		"gk apps ":                               "ls get add set rm",
		"gk -o json --man http://x apps s":       "set",
		"gk --man=http://x topics rm a/b/v1 --y": "--yes",
		"gk adminkeys add v":                     "viewer",
		"gk completion ":                         "bash zsh fish",
		"gk sub apps --gr":                       "--group",
		"gk nonsense":                            "",
	} {
		words, err := json.Marshal(strings.Split(typed, " "))
		if err != nil {
			t.Fatal(err)
		}
		list := strings.NewReplacer("[", "(", "]", ")", ",", " ").Replace(string(words))
		cmd := exec.CommandContext(t.Context(), shell, "--norc", "-c", script+"\nCOMP_WORDS="+list+"; COMP_CWORD=$((${#COMP_WORDS[@]}-1)); _gk; echo ${COMPREPLY[*]}")
		out, err := cmd.CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || !strings.HasPrefix(got, want) || want == "" && got != "" {
			t.Errorf("%q: %q, %v; want %q", typed, got, err, want)
		}
	}
}

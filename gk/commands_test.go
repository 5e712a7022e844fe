package gk

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Each command that changes something asks for exactly this.
func TestRequests(t *testing.T) {
	const object = `{"app":"shop"}`
	for args, want := range map[string]string{
		"apps add shop": `POST /v1/apps {"app":"shop"}`,
		"apps add shop --description x --class premium --cluster east --disabled": `POST /v1/apps {"app":"shop","class":"premium","cluster":"east","description":"x","disabled":true}`,
		"apps set shop --no-disabled":                                    `PATCH /v1/apps/shop {"disabled":false}`,
		"apps set shop --description=":                                   `PATCH /v1/apps/shop {"description":""}`,
		"apps set shop --limit messages_per_second=5.5 --limit burst=2s": `PATCH /v1/apps/shop {"limits":{"burst":"2s","messages_per_second":5.5}}`,
		"apps rm shop":                                 `DELETE /v1/apps/shop`,
		"apps rm a/..%2f?b":                            `DELETE /v1/apps/a%2F..%252f%3Fb`,
		"keys add shop --use pub --name ci":            `POST /v1/apps/shop/keys {"name":"ci","use":"pub"}`,
		"keys add shop --expires 2030-01-02T03:04:05Z": `POST /v1/apps/shop/keys {"expires":"2030-01-02T03:04:05Z","use":"both"}`,
		"keys rm shop k1":                              `DELETE /v1/apps/shop/keys/k1`,
		"topics add shop/orders/v1":                    `POST /v1/topics {"app":"shop","topic":"orders","ver":"v1"}`,
		"topics add shop.orders.v1 --partitions 3 --replicas 2 --retention 168h":                                        `POST /v1/topics {"app":"shop","partitions":3,"replicas":2,"retention":"168h","topic":"orders","ver":"v1"}`,
		"topics set shop/orders/v1 --retention none --retention-bytes=-1 --cleanup compact --max-attempts 3 --no-spool": `PATCH /v1/topics/shop/orders/v1 {"cleanup":"compact","max_attempts":3,"retention":"-1ns","retention_bytes":-1,"spool":false}`,
		"topics rm shop/orders/v1 --yes":                               `DELETE /v1/topics/shop/orders/v1`,
		"topics map shop/orders/v1 legacy.orders":                      `POST /v1/topics {"app":"shop","store_topic":"legacy.orders","topic":"orders","ver":"v1"}`,
		"subs grant shop/orders/v1 bill":                               `PUT /v1/subscriptions/shop/orders/v1/bill {"groups":[]}`,
		"subs grant shop/orders/v1 bill --group a,b --spread a=3":      `PUT /v1/subscriptions/shop/orders/v1/bill {"groups":["a","b"],"spread":{"a":3}}`,
		"subs revoke shop/orders/v1 bill":                              `DELETE /v1/subscriptions/shop/orders/v1/bill`,
		"groups seek shop/orders/v1 bill.g --to oldest":                `PUT /v1/groups/shop/orders/v1/bill.g/offsets {"to":"oldest"}`,
		"groups seek shop/orders/v1 g --to 2026-11-23T10:00:00Z":       `PUT /v1/groups/shop/orders/v1/g/offsets {"to":"2026-11-23T10:00:00Z"}`,
		"groups rm shop/orders/v1 old-consumer --native":               `DELETE /v1/groups/shop/orders/v1/old-consumer native=1`,
		"groups seek shop/orders/v1 c --native --to newest":            `PUT /v1/groups/shop/orders/v1/c/offsets native=1 {"to":"newest"}`,
		"groups rm shop/orders/v1 g":                                   `DELETE /v1/groups/shop/orders/v1/g`,
		"offsets set shop/orders/v1 g 0=41 1:7":                        `PUT /v1/groups/shop/orders/v1/g/offsets {"offsets":[{"partition":0,"offset":41},{"partition":1,"offset":7}]}`,
		"clusters add east --bootstrap a:9092,b:9092":                  `POST /v1/clusters {"brokers":["a:9092","b:9092"],"cluster":"east"}`,
		"clusters set east --zookeeper z:2181/kafka":                   `PATCH /v1/clusters/east {"brokers":[],"zookeeper":"z:2181/kafka"}`,
		"clusters add east --bootstrap a:1 --tls --sasl scram-sha-512": `POST /v1/clusters {"brokers":["a:1"],"cluster":"east","sasl":"scram-sha-512","tls":true}`,
		"clusters set east --bootstrap a:1 --no-tls --sasl=":           `PATCH /v1/clusters/east {"brokers":["a:1"],"sasl":"","tls":false,"zookeeper":""}`,
		"clusters rm east":                                             `DELETE /v1/clusters/east`,
		"options set log_level debug":                                  `PUT /v1/options/log_level {"value":"debug"}`,
		"options set publish_timeout 5":                                `PUT /v1/options/publish_timeout {"value":5}`,
		"adminkeys add viewer --name grafana":                          `POST /v1/adminkeys {"name":"grafana","role":"viewer"}`,
		"adminkeys rm k1":                                              `DELETE /v1/adminkeys/k1`,
		"refresh":                                                      `POST /v1/refresh`,
	} {
		f := newFake(t)
		for _, m := range []string{"POST", "PUT", "PATCH"} {
			f.answer(m+" /", 200, object)
		}
		f.answer("DELETE /", 204, "")
		o := f.invoke(t, strings.Fields(args)...)
		if o.code != 0 || o.err != "" {
			t.Errorf("gk %s: %+v", args, o)
		}
		got := f.requests()
		if len(got) != 1 || got[0].String() != want {
			t.Errorf("gk %s:\ngot  %v\nwant %s", args, got, want)
			continue
		}
		if strings.Contains(want, "{") && got[0].header.Get("Content-Type") != "application/json" {
			t.Errorf("gk %s: body without its type", args)
		}
		if strings.HasPrefix(want, "DELETE") && !strings.HasSuffix(o.out, "d\n") && !strings.Contains(o.out, "forgotten") && !strings.Contains(o.out, "no longer") || want[0] == 'P' && o.out != "app  shop\n" {
			t.Errorf("gk %s says %q", args, o.out)
		}
	}
}

// What gk can know to be wrong is told without asking anybody.
func TestUsage(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, []byte(" \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := newFake(t)
	for args, want := range map[string]string{
		"fly":                                    "unexpected argument fly",
		"":                                       "expected one of",
		"apps set shop":                          "nothing to change",
		"topics set shop/orders/v1":              "nothing to change",
		"topics get shop/orders":                 "app/topic/version",
		"topics get shop/ord~ers/v1":             "must match",
		"topics rm shop/orders/v1":               "--yes",
		"topics ls --app a --cluster b:9092":     "one of them",
		"topics add a/b/v1 --retention 7d":       "168h, or none",
		"keys add shop --expires tomorrow":       "720h",
		"keys add shop --expires=-1h":            "720h",
		"keys add shop --use all":                "must be one of",
		"groups seek a/b/v1 g":                   "missing flags",
		"groups seek a/b/v1 g --to now":          "oldest, newest",
		"offsets set a/b/v1 g 0":                 "PARTITION=OFFSET",
		"offsets set a/b/v1 g 0=-1":              "PARTITION=OFFSET",
		"offsets set a/b/v1 g 0=1 0=2":           "given twice",
		"adminkeys add root":                     "must be one of",
		"clusters add east":                      "--bootstrap",
		"tail a/b/v1 --every 0s":                 "--every",
		"top --every 1ms":                        "100ms",
		"bench a/b/v1 --clients 1000 --size 1":   "--size 1: must be",
		"apps ls -o yaml":                        "must be one of",
		"apps ls --timeout 0s":                   "--timeout",
		"apps ls --man ftp://x":                  "must be a URL",
		"apps ls --man http://me:secret@x":       "must not have credentials",
		"apps ls --man nonsense":                 "host:port",
		"apps ls --man http://x/?a=b":            "query",
		"apps ls --admin-key-file /nonexistent":  "no such file",
		"apps ls --admin-key-file " + empty:      "is empty",
		"apps ls --ca-file " + empty:             "no PEM",
		"brokers":                                "--brokers",
		"sub a/b/v1":                             "--group",
		"brokers --brokers nonsense":             "host:port",
		"pub a/b/v1 --app-key-file /nonexistent": "no such file",
	} {
		o := f.invoke(t, strings.Fields(args)...)
		if o.code != exitUsage || o.out != "" || !strings.Contains(o.err, want) || !strings.HasPrefix(o.err, "gk: ") {
			t.Errorf("gk %s: %+v, want %q", args, o, want)
		}
		if strings.Contains(o.err, "secret") {
			t.Errorf("gk %s tells a secret: %s", args, o.err)
		}
	}
	for _, r := range f.requests() { // pub looks for its address before its key
		if r.path != "/v1/gateways" && r.path != "/v1/status" {
			t.Errorf("asked for %s", r)
		}
	}
}

func TestIfMatch(t *testing.T) {
	f := newFake(t)
	f.handle("PATCH /v1/apps/shop", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("If-Match") != `"abc"` {
			refuse(w, 412, "precondition_failed", "apps/shop has changed meanwhile")
			return
		}
		w.Header().Set("ETag", `"def"`)
		_, _ = w.Write([]byte(`{"app":"shop"}`))
	})
	f.invoke(t, "apps", "set", "shop", "--class", "premium", "--if-match", "abc").want(t, 0, "app   shop\netag  def\n", "")
	f.invoke(t, "apps", "set", "shop", "--class", "premium", "--if-match", `"abc"`).want(t, 0, "app   shop\netag  def\n", "")
	f.invoke(t, "apps", "set", "shop", "--class", "premium", "--if-match", "*").contains(t, 1, "412 Precondition Failed", "changed meanwhile", "new ETag")
}

func TestExitStatus(t *testing.T) {
	f := newFake(t)
	f.answer("GET /v1/apps/shop", 200, `{"app":"shop"}`)
	f.answer("GET /v1/apps/odd", 200, `no JSON`)
	f.answer("GET /v1/apps/moved", 302, "", "Location", "http://elsewhere.example/")
	f.answer("GET /v1/apps/html", 502, "<html>")
	f.handle("GET /v1/apps/cut", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = w.Write([]byte("{"))
	})
	f.handle("GET /v1/apps/secret", func(w http.ResponseWriter, _ *http.Request) { refuse(w, 401, "unauthenticated", "") })
	for app, want := range map[string]struct {
		code int
		err  string
	}{
		"shop":   {0, ""},
		"none":   {1, "gk: GET " + f.URL + "/v1/apps/none: 404 Not Found: no such path (not_found)\n"},
		"odd":    {1, "the answer is no object"},
		"moved":  {1, "302 Found; gk follows no redirects"},
		"html":   {1, "502 Bad Gateway"},
		"cut":    {3, "unexpected EOF"},
		"secret": {1, "KATEWAY_ADMIN_KEY"},
	} {
		o := f.invoke(t, "apps", "get", app)
		if o.code != want.code || !strings.Contains(o.err, want.err) || (o.err == "") != (want.err == "") {
			t.Errorf("%s: %+v", app, o)
		}
	}
	f.Close()
	o := f.invoke(t, "apps", "ls")
	if o.code != exitUnreachable || o.out != "" || !strings.Contains(o.err, "GET "+f.URL+"/v1/apps: no answer: ") {
		t.Errorf("%+v", o)
	}
}

func TestAdminKey(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte("of-the-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		env  []string
		args []string
		want string
	}{
		"none":              {nil, nil, ""},
		"environment":       {[]string{"KATEWAY_ADMIN_KEY=of-the-environment"}, nil, "Bearer of-the-environment"},
		"file":              {[]string{"KATEWAY_ADMIN_KEY=of-the-environment"}, []string{"--admin-key-file", file}, "Bearer of-the-file"},
		"file, environment": {[]string{"KATEWAY_ADMIN_KEY_FILE=" + file}, nil, "Bearer of-the-file"},
	} {
		f := newFake(t)
		f.handle("GET /v1/options/x", func(w http.ResponseWriter, _ *http.Request) { refuse(w, 403, "denied", "") })
		o := invoke(t, append(c.env, "KATEWAY_MAN="+f.host()), "", append(c.args, "options", "get", "x")...)
		if got := f.requests(); len(got) != 1 || got[0].header.Get("Authorization") != c.want {
			t.Errorf("%s: %v", name, got)
		}
		if o.code != 1 || strings.Contains(o.err, "of-the") {
			t.Errorf("%s: %+v", name, o)
		}
	}
	o := invoke(t, []string{"KATEWAY_ADMIN_KEY=two\nlines"}, "", "apps", "ls")
	if o.code != exitUsage || strings.Contains(o.err, "two") {
		t.Errorf("%+v", o)
	}
}

func TestTables(t *testing.T) {
	f := newFake(t)
	f.answer("GET /v1/apps", 200, items(`{"app":"shop","class":"standard","cluster":"default","created":"2026-11-23T10:00:00Z","description":"a \u001b[31mred\u001b[0m shop"}`))
	f.answer("GET /v1/apps/shop/keys", 200, items(`{"id":"k1","use":"pub","name":"ci","created":"2026-11-23T10:00:00Z","expires":"2027-01-01T00:00:00Z"}`))
	f.answer("GET /v1/topics", 200, items(
		`{"app":"shop","topic":"orders","ver":"v1","cluster":"default","partitions":12,"replicas":3,"retention":"168h0m0s","cleanup":"delete"}`,
		`{"app":"bill","topic":"sums","ver":"v2","cluster":"east","partitions":1,"replicas":1,"retention":"-1ns","cleanup":"compact","store_topic":"legacy"}`))
	f.answer("GET /v1/subscriptions", 200, items(
		`{"app":"shop","topic":"orders","ver":"v1","subscriber":"bill","groups":["a","b"],"created":"2026-11-23T10:00:00Z"}`,
		`{"app":"shop","topic":"orders","ver":"v1","subscriber":"mail","groups":[],"created":"2026-11-23T10:00:00Z"}`))
	f.answer("GET /v1/gateways", 200, items(`{"id":"gw1","pub":"a:9191","sub":"a:9191","man":"a:9193","version":"v1","host":"a","started":"2026-11-23T10:00:00Z","load":{"publish_per_second":12.34,"streams":3}}`))
	f.answer("GET /v1/clients", 200, items(
		`{"gateway":"gw1","kind":"sse","app":"bill","owner":"shop","topic":"orders","ver":"v1","group":"g","remote":"10.0.0.7:51234","since":"2026-11-23T10:00:00Z","messages":5,"bytes":500}`,
		`{"gateway":"gw1","kind":"pub","app":"mail","topic":"out","ver":"v1","remote":"10.0.0.8:51234","since":"2026-11-23T10:00:00Z","messages":1,"bytes":5}`))
	f.answer("GET /v1/clusters", 200, items(
		`{"cluster":"default","apps":2,"topics":7,"live":{"brokers":[{"id":1,"host":"k1","port":9092},{"id":2,"host":"k2","port":9092}],"leaderless":0,"under_replicated":1}}`,
		`{"cluster":"east","brokers":["e1:9092"],"fault":"no answer"}`))
	f.answer("GET /v1/options", 200, items(`{"name":"log_level","value":"info","default":"info","persists":true,"description":"How much is logged."}`, `{"name":"n","value":{"a":1}}`))
	f.answer("GET /v1/adminkeys", 200, items(`{"id":"a1","role":"viewer","name":"grafana","created":"2026-11-23T10:00:00Z"}`))
	for args, want := range map[string]string{
		"apps ls":                      "APP   CLASS     CLUSTER  DISABLED  CREATED               DESCRIPTION\nshop  standard  default  false     2026-11-23T10:00:00Z  a \\x1b[31mred\\x1b[0m shop\n",
		"keys ls shop":                 "ID  USE  NAME  CREATED               EXPIRES\nk1  pub  ci    2026-11-23T10:00:00Z  2027-01-01T00:00:00Z\n",
		"topics ls":                    "TOPIC           CLUSTER  PARTITIONS  REPLICAS  RETENTION  CLEANUP  STORE-TOPIC\nshop/orders/v1  default  12          3         168h       delete   -\nbill/sums/v2    east     1           1         none       compact  legacy\n",
		"topics ls --app bill":         "TOPIC         CLUSTER  PARTITIONS  REPLICAS  RETENTION  CLEANUP  STORE-TOPIC\nbill/sums/v2  east     1           1         none       compact  legacy\n",
		"topics ls --app none":         "TOPIC  CLUSTER  PARTITIONS  REPLICAS  RETENTION  CLEANUP  STORE-TOPIC\n",
		"topics ls --app none -o json": "[]\n",
		"subs ls":                      "TOPIC           SUBSCRIBER  GROUPS  CREATED\nshop/orders/v1  bill        a,b     2026-11-23T10:00:00Z\nshop/orders/v1  mail        any     2026-11-23T10:00:00Z\n",
		"subs ls --subscriber mail":    "TOPIC           SUBSCRIBER  GROUPS  CREATED\nshop/orders/v1  mail        any     2026-11-23T10:00:00Z\n",
		"gateways":                     "ID   VERSION  HOST  PUB     SUB     MAN     PEER  STARTED               PUBLISHES/S  STREAMS\ngw1  v1       a     a:9191  a:9191  a:9193  -     2026-11-23T10:00:00Z  12.3         3\n",
		"clients --app shop":           "GATEWAY  KIND  APP   TOPIC           GROUP  REMOTE          SINCE                 MESSAGES  BYTES\ngw1      sse   bill  shop/orders/v1  g      10.0.0.7:51234  2026-11-23T10:00:00Z  5         500\n",
		"clients --app mail":           "GATEWAY  KIND  APP   TOPIC        GROUP  REMOTE          SINCE                 MESSAGES  BYTES\ngw1      pub   mail  mail/out/v1  -      10.0.0.8:51234  2026-11-23T10:00:00Z  1         5\n",
		"clusters ls":                  "CLUSTER  APPS  TOPICS  BROKERS          ZOOKEEPER  LEADERLESS  UNDER-REPLICATED  FAULT\ndefault  2     7       k1:9092,k2:9092  -          0           1                 -\neast     0     0       e1:9092          -          -           -                 no answer\n",
		"options ls":                   "OPTION     VALUE    DEFAULT  PERSISTS  DESCRIPTION\nlog_level  info     info     true      How much is logged.\nn          {\"a\":1}  -        false     -\n",
		"adminkeys ls":                 "ID  ROLE    NAME     CREATED               EXPIRES\na1  viewer  grafana  2026-11-23T10:00:00Z  -\n",
		"adminkeys ls --output=json":   "[\n{\"id\":\"a1\",\"role\":\"viewer\",\"name\":\"grafana\",\"created\":\"2026-11-23T10:00:00Z\"}\n]\n",
	} {
		o := f.invoke(t, strings.Fields(args)...)
		if o != (outcome{0, want, ""}) {
			t.Errorf("gk %s: %d %s\n--- got\n%s--- want\n%s", args, o.code, o.err, o.out, want)
		}
	}
}

func TestObject(t *testing.T) {
	f := newFake(t)
	const app = `{"app":"shop","disabled":false,"limits":{"streams":3,"burst":"1s"},"empty":{},"none":null,"list":["a","b"],"future":{"x":{"y":1}}}`
	f.answer("GET /v1/apps/shop", 200, app, "ETag", `"abc"`)
	f.invoke(t, "apps", "get", "shop").want(t, 0, `app             shop
disabled        false
limits.streams  3
limits.burst    1s
empty           -
none            -
list            a, b
future.x.y      1
etag            abc
`, "")
	o := f.invoke(t, "-o", "json", "apps", "get", "shop")
	var got, want any
	if json.Unmarshal([]byte(o.out), &got) != nil || json.Unmarshal([]byte(app), &want) != nil || !strings.HasSuffix(o.out, "\n}\n") {
		t.Errorf("%q", o.out)
	}
}

// A key is shown when it is made; the JSON has it for scripts.
func TestNewKey(t *testing.T) {
	f := newFake(t)
	f.answer("POST /v1/apps/shop/keys", 201, `{"id":"k1","key":"k1.secret","use":"pub"}`, "Location", "/v1/apps/shop/keys/k1")
	f.invoke(t, "keys", "add", "shop", "--use", "pub").want(t, 0, "id   k1\nkey  k1.secret\nuse  pub\n", "")
	o := f.invoke(t, "keys", "add", "shop", "-o", "json")
	var k struct{ Key string }
	if err := json.Unmarshal([]byte(o.out), &k); err != nil || k.Key != "k1.secret" {
		t.Errorf("%+v, %v", o, err)
	}
}

func TestStaleIsTold(t *testing.T) {
	f := newFake(t)
	f.answer("GET /v1/apps", 200, items(), "X-Stale", "1")
	o := f.invoke(t, "apps", "ls")
	if o.code != 0 || strings.Count(o.err, "last that it knows") != 1 {
		t.Errorf("%+v", o)
	}
}

func TestVersionAndHelp(t *testing.T) {
	invoke(t, nil, "", "version").contains(t, 0, "gk v1.2.3 go")
	invoke(t, nil, "", "version", "-o", "json").want(t, 0, "{\n  \"version\": \"v1.2.3\"\n}\n", "")
	o := invoke(t, nil, "", "--help")
	o.contains(t, 0, "Exit status: 0", "doctor", "KATEWAY_MAN")
	for _, args := range [][]string{{"pub", "--help"}, {"tail", "--help"}, {"bench", "--help"}, {"top", "--help"}} {
		if o := invoke(t, nil, "", args...); o.code != 0 || !strings.Contains(o.out, "Usage: gk "+args[0]) {
			t.Errorf("%v: %+v", args, o)
		}
	}
}

func TestAddresses(t *testing.T) {
	for address, want := range map[string]string{
		"http://h:1":       "http://h:1",
		"https://h":        "https://h",
		"http://h:1/":      "http://h:1",
		"http://h/kate/":   "http://h/kate",
		"h:1":              "http://h:1",
		":9193":            "http://127.0.0.1:9193",
		"[::1]:9193":       "http://[::1]:9193",
		"h":                "",
		"off":              "",
		"http://":          "",
		"http://h:1/#x":    "",
		"unix:///run/kate": "",
	} {
		got, err := baseURL(address)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", address, got, err)
		}
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"plain text":   "plain text",
		"ünïcode 漢字":   "ünïcode 漢字",
		"a\nb\tc":      `a\nb\tc`,
		"\x1b[2J":      `\x1b[2J`,
		"bad \xff":     `bad \ufffd`,
		"turn \u202e.": `turn \u202e.`,
	} {
		if got := printable(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestCompletion(t *testing.T) {
	var c commands
	k, err := newParser(&c, nil, streams{}, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	places := wordsOf(k.Model)
	if len(places) < 50 {
		t.Fatalf("%d places", len(places))
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		o := invoke(t, nil, "", "completion", shell)
		if o.code != 0 || o.err != "" {
			t.Fatalf("%s: %+v", shell, o)
		}
		for _, p := range places {
			for _, w := range slices.Concat(p.commands, p.values, p.flags) {
				text := w.text
				if shell == "fish" {
					text = strings.TrimLeft(text, "-")
				}
				if !strings.Contains(o.out, text) {
					t.Errorf("%s does not know %q after %q", shell, w.text, p.command)
				}
			}
		}
	}
}

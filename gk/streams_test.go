package gk

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// topic is a topic of a fake: its partitions as they grow, served by peek, publish and the lag of a group.
type topicFake struct {
	mu    sync.Mutex
	parts [][]string
	start []int64 // of each partition
}

func (f *fake) topic(path string, parts ...[]string) *topicFake {
	tf := &topicFake{parts: parts, start: make([]int64, len(parts))}
	f.handle("GET /v1/groups/"+path+"/gk-tail", tf.lag)
	f.handle("GET /v1/peek/"+path, tf.peek)
	return tf
}

func (tf *topicFake) add(partition int, values ...string) {
	tf.mu.Lock()
	defer tf.mu.Unlock()
	for partition >= len(tf.parts) {
		tf.parts, tf.start = append(tf.parts, nil), append(tf.start, 0)
	}
	tf.parts[partition] = append(tf.parts[partition], values...)
}

func (tf *topicFake) lag(w http.ResponseWriter, _ *http.Request) {
	tf.mu.Lock()
	defer tf.mu.Unlock()
	var list []groupPartition
	for i, p := range tf.parts {
		list = append(list, groupPartition{Partition: int32(i), Start: tf.start[i], End: int64(len(p)), Committed: -1})
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"group": "shop.gk-tail", "partitions": list})
}

func (tf *topicFake) peek(w http.ResponseWriter, r *http.Request) {
	tf.mu.Lock()
	defer tf.mu.Unlock()
	q := r.URL.Query()
	partition, _ := strconv.Atoi(q.Get("partition"))
	offset, _ := strconv.Atoi(q.Get("offset"))
	n, _ := strconv.Atoi(q.Get("n"))
	var list []string
	for i := max(offset, int(tf.start[partition])); i < len(tf.parts[partition]) && len(list) < n; i++ {
		if v := tf.parts[partition][i]; v != "" { // an offset without a message
			list = append(list, fmt.Sprintf(`{"partition":%d,"offset":%d,"timestamp":"t","value":%q}`, partition, i, v))
		}
	}
	_, _ = io.WriteString(w, items(list...))
}

// watched ends a command that runs until it is interrupted once its output has all of these.
type watched struct {
	text  []byte
	until []string
	stop  context.CancelFunc
	seen  func(string) // nil, or called with all that there is after each write
}

func (w *watched) Write(b []byte) (int, error) {
	w.text = append(w.text, b...)
	text := string(w.text)
	if w.seen != nil {
		w.seen(text)
	}
	for _, u := range w.until {
		if !strings.Contains(text, u) {
			return len(b), nil
		}
	}
	w.stop()
	return len(b), nil
}

// watch runs a command until its output has all of these.
func (f *fake) watch(t *testing.T, seen func(string), until []string, args ...string) outcome {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	out := &watched{until: until, stop: stop, seen: seen}
	var errs bytes.Buffer
	code := run(ctx, args, []string{"KATEWAY_MAN=" + f.URL}, streams{strings.NewReader(""), out, &errs}, "v1")
	return outcome{code, string(out.text), errs.String()}
}

func TestPages(t *testing.T) {
	f := newFake(t)
	f.handle("GET /v1/apps", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		from, _ := strconv.Atoi(strings.TrimPrefix(q.Get("after"), "app"))
		if q.Get("limit") != "1000" {
			refuse(w, 400, "invalid_param", "limit")
			return
		}
		var list []string
		for i := from + 1; i <= min(from+1000, 2500); i++ {
			list = append(list, fmt.Sprintf(`{"app":"app%04d"}`, i))
		}
		next := ""
		if from+1000 < 2500 {
			next = fmt.Sprintf(`,"next":"app%04d"`, from+1000)
		}
		_, _ = fmt.Fprintf(w, `{"items":[%s]%s}`, strings.Join(list, ","), next)
	})
	o := f.invoke(t, "apps", "ls")
	if lines := strings.Count(o.out, "\n"); o.code != 0 || lines != 2501 || !strings.Contains(o.out, "app2500") {
		t.Errorf("%d lines, %d %s", lines, o.code, o.err)
	}
	o = f.invoke(t, "apps", "ls", "-o", "json")
	var list []map[string]string
	if err := json.Unmarshal([]byte(o.out), &list); err != nil || len(list) != 2500 || list[2499]["app"] != "app2500" {
		t.Errorf("%d, %v", len(list), err)
	}
}

// A gateway whose pages do not end is left, and what can't be read is no list of nothing.
func TestBadPages(t *testing.T) {
	f := newFake(t)
	f.answer("GET /v1/apps", 200, `{"items":[{"app":"a"}],"next":"a"}`)
	f.invoke(t, "apps", "ls").contains(t, 1, "next is after the same")
	f.answer("GET /v1/options", 200, `{"items":[{"name":7}]}`)
	f.invoke(t, "options", "ls").contains(t, 1, "not what this version of gk knows")
	f.answer("GET /v1/gateways", 200, `[]`)
	f.invoke(t, "gateways").contains(t, 1, "not what this version of gk knows")
}

func TestPeek(t *testing.T) {
	f := newFake(t)
	f.answer("GET /v1/peek/shop/orders/v1", 200, items(
		`{"partition":0,"offset":1,"timestamp":"t1","key":"k","value":"a\nb"}`,
		`{"partition":0,"offset":2,"timestamp":"t2","key_base64":"/w==","value":{"n": 1}}`,
		`{"partition":0,"offset":3,"timestamp":"t3","value":null}`,
		`{"partition":0,"offset":4,"timestamp":"t4","value_base64":"/w=="}`))
	f.invoke(t, "peek", "shop/orders/v1", "--partition", "0", "--offset", "1", "-n", "4").want(t, 0,
		`PARTITION  OFFSET  TIMESTAMP  KEY          VALUE
0          1       t1         k            a\nb
0          2       t2         base64:/w==  {"n": 1}
0          3       t3         -            (deleted)
0          4       t4         -            base64:/w==
`, "")
	if got := f.requests()[0]; got.query != "n=4&offset=1&partition=0" {
		t.Error(got)
	}
	f.answer("GET /v1/peek/shop/none/v1", 200, `{"items":[]}`)
	f.invoke(t, "peek", "shop/none/v1", "-o", "json").want(t, 0, "[]\n", "")
	f.answer("GET /v1/peek/shop/cut/v1", 200, `{"items":[{"partition":0,"offset":1,"value":"a"}`)
	f.invoke(t, "peek", "shop/cut/v1").contains(t, 3, "no answer")
	f.answer("GET /v1/peek/shop/odd/v1", 200, `[]`)
	f.invoke(t, "peek", "shop/odd/v1").contains(t, 1, "no list of messages")
}

func TestTail(t *testing.T) {
	f := newFake(t)
	tf := f.topic("shop/orders/v1", []string{"p0-0", "p0-1", "p0-2"}, []string{"p1-0"}, nil)
	steps := []struct {
		when string
		do   func()
	}{
		{"p1-0", func() { tf.add(2, "p2-0"); tf.add(0, "p0-3", "", "p0-5", "") }},
		{"p0-5", func() { tf.add(3, "new partition") }},
		{"new partition", func() { // the topic is made anew
			tf.mu.Lock()
			tf.parts[0] = []string{"again"}
			tf.mu.Unlock()
		}},
	}
	o := f.watch(t, func(text string) {
		if len(steps) > 0 && strings.Contains(text, steps[0].when) {
			steps[0].do()
			steps = steps[1:]
		}
	}, []string{"again", "p2-0"}, "tail", "shop/orders/v1", "-n", "2", "--every", "1ms")
	if o.code != 0 || o.err != "" {
		t.Fatalf("%+v", o)
	}
	for _, v := range []string{"p0-1", "p0-2", "p0-3", "p0-5", "p1-0", "p2-0", "new partition", "again"} {
		if strings.Count(o.out, v) != 1 {
			t.Errorf("%q stands there %d times", v, strings.Count(o.out, v))
		}
	}
	if strings.Contains(o.out, "p0-0") {
		t.Error("more than the last two")
	}
}

func TestTailLimit(t *testing.T) {
	f := newFake(t)
	many := make([]string, 1500)
	for i := range many {
		many[i] = fmt.Sprintf("m%04d", i)
	}
	f.topic("shop/orders/v1", many)
	o := f.invoke(t, "tail", "shop/orders/v1", "-n", "1200", "--limit", "1100", "-o", "json")
	lines := strings.Split(strings.TrimSpace(o.out), "\n")
	if o.code != 0 || len(lines) != 1100 || !strings.Contains(lines[0], "m0300") || !strings.Contains(lines[1099], "m1399") {
		t.Errorf("%d lines from %s, %d %s", len(lines), lines[0], o.code, o.err)
	}
	for _, l := range lines {
		if !json.Valid([]byte(l)) {
			t.Fatalf("%q", l)
		}
	}
	f.invoke(t, "tail", "shop/none/v1").contains(t, 1, "404")
}

// publisher keeps the lines that it is sent, and refuses those that say so.
func (f *fake) publisher(batches *[][]string) {
	f.handle("POST /v1/msgs/orders/v1", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("batch") != "lines" {
			refuse(w, 400, "invalid_param", "batch")
			return
		}
		b, _ := io.ReadAll(r.Body)
		lines := strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
		*batches = append(*batches, lines)
		status, results := 201, []string{}
		for _, l := range lines {
			switch l {
			case "poison":
				refuse(w, 413, "too_large", "line 1")
				return
			case "bad":
				status = 207
				results = append(results, `{"error":{"status":503,"code":"unavailable","title":"Unavailable"}}`)
			default:
				results = append(results, `{"partition":0,"offset":1}`)
			}
		}
		w.WriteHeader(status)
		_, _ = fmt.Fprintf(w, `{"results":[%s]}`, strings.Join(results, ","))
	})
}

func (f *fake) pub(t *testing.T, stdin string, args ...string) outcome {
	t.Helper()
	return invoke(t, []string{"KATEWAY_MAN=" + f.URL, "KATEWAY_PUB=" + f.URL, "KATEWAY_APP_KEY=k.secret"}, stdin, append([]string{"pub", "shop/orders/v1"}, args...)...)
}

func TestPub(t *testing.T) {
	f := newFake(t)
	var batches [][]string
	f.publisher(&batches)
	f.pub(t, "a\r\n\nb\nlast without end", "--key", "k 1", "--ack", "local").want(t, 0, "3 messages published\n", "")
	if got := f.requests()[0]; got.query != "ack=local&batch=lines&key=k+1" || got.header.Get("Appid") != "shop" || got.header.Get("Pubkey") != "k.secret" || got.header.Get("Authorization") != "" {
		t.Error(got, got.header)
	}
	if fmt.Sprint(batches) != "[[a b] [last without end]]" {
		t.Error(batches)
	}
	f.pub(t, "", "-o", "json").want(t, 0, "{\n  \"published\": 0,\n  \"failed\": 0\n}\n", "")
	f.pub(t, "\n\na\nbad\nc\n").want(t, 1, "2 messages published\n", "gk: line 4:  (unavailable)\ngk: 1 messages were not stored\n")
	f.pub(t, "poison\nb\n", "-o", "json").contains(t, 1, "lines 1 to 2", "413", `"failed": 2`)
	f.Close()
	f.pub(t, "a\n").contains(t, 3, "no answer", "0 messages published")
}

// What is at hand goes together, within the bounds of a request; the order stays.
func TestPubBatches(t *testing.T) {
	f := newFake(t)
	var batches [][]string
	f.publisher(&batches)
	var in strings.Builder
	for i := range 2500 {
		fmt.Fprintf(&in, "%04d\n", i)
	}
	o := f.pub(t, in.String())
	if o.code != 0 || o.out != "2500 messages published\n" {
		t.Fatalf("%+v", o)
	}
	n := 0
	for _, b := range batches {
		if len(b) > maxBatch {
			t.Errorf("%d lines at once", len(b))
		}
		for _, l := range b {
			if l != fmt.Sprintf("%04d", n) {
				t.Fatalf("line %d is %q", n, l)
			}
			n++
		}
	}
	if len(batches) > 10 {
		t.Errorf("%d requests for what came at once", len(batches))
	}
	batches = nil
	long := strings.Repeat("x", maxBatchSize)
	if o := f.pub(t, long+"\n"+long+"\n"); o.code != 0 || len(batches) != 2 {
		t.Errorf("%d requests, %d %s", len(batches), o.code, o.err)
	}
}

// pipe is what somebody types: a line is there only once the one before is published.
type typed struct {
	lines chan string
	rest  string
}

func (p *typed) Read(b []byte) (int, error) {
	if p.rest == "" {
		line, more := <-p.lines
		if !more {
			return 0, io.EOF
		}
		p.rest = line
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

func TestPubDoesNotWaitForMoreLines(t *testing.T) {
	f := newFake(t)
	in := &typed{lines: make(chan string, 1)}
	in.lines <- "first\n"
	f.handle("POST /v1/msgs/orders/v1", func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		if string(b) == "first\n" {
			in.lines <- "second\n"
		} else {
			close(in.lines)
		}
		w.WriteHeader(201)
		_, _ = io.WriteString(w, `{"results":[{"partition":0,"offset":1}]}`)
	})
	var out, errs bytes.Buffer
	code := run(t.Context(), []string{"pub", "shop/orders/v1", "--pub", f.URL}, nil, streams{in, &out, &errs}, "v1")
	if code != 0 || out.String() != "2 messages published\n" {
		t.Errorf("%d %s %s", code, &out, &errs)
	}
}

func TestPubReadsNoEndlessLine(t *testing.T) {
	f := newFake(t)
	var out, errs bytes.Buffer
	code := run(t.Context(), []string{"pub", "shop/orders/v1", "--pub", f.URL}, nil, streams{endless{}, &out, &errs}, "v1")
	if code != 1 || !strings.Contains(errs.String(), "line 1: longer than") || len(f.requests()) != 0 {
		t.Errorf("%d %s", code, &errs)
	}
	in := io.MultiReader(strings.NewReader("a\n"), broken{})
	f.publisher(new([][]string))
	code = run(t.Context(), []string{"pub", "shop/orders/v1", "--pub", f.URL}, nil, streams{in, &out, &errs}, "v1")
	if code != 1 || !strings.Contains(errs.String(), "line 2: reading standard input: broken") || !strings.Contains(out.String(), "1 messages") {
		t.Errorf("%d %s %s", code, &out, &errs)
	}
}

type endless struct{}

func (endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 'x'
	}
	return len(b), nil
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("broken") }

func TestSub(t *testing.T) {
	f := newFake(t)
	f.answer("GET /v1/status", 200, `{"id":"gw2"}`)
	f.answer("GET /v1/gateways", 200, items(`{"id":"gw1","sub":"gw1.invalid:9191"}`, fmt.Sprintf(`{"id":"gw2","pub":"gw2.invalid:1","sub":%q}`, f.host())))
	f.handle("GET /v1/stream/shop/orders/v1", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept") == "application/x-ndjson" {
			_, _ = io.WriteString(w, "\n{\"value\":\"a\"}\n\n{\"value\":\"b\"}\n")
			return
		}
		_, _ = io.WriteString(w, "a\n\x1b[2Jb\n\n")
	})
	f.invoke(t, "sub", "shop/orders/v1", "--group", "g", "--limit", "3", "--app", "bill", "--reset", "newest").want(t, 0, "a\n\x1b[2Jb\n\n", "")
	got := f.requests()
	last := got[len(got)-1]
	if last.query != "group=g&limit=3&reset=newest" || last.header.Get("Appid") != "bill" || last.header.Get("Accept") != "text/plain" {
		t.Error(last, last.header)
	}
	f.invoke(t, "sub", "shop/orders/v1", "--group", "g", "--limit", "2", "-o", "json").want(t, 0, "{\"value\":\"a\"}\n{\"value\":\"b\"}\n", "")
	f.invoke(t, "sub", "shop/orders/v1", "--group", "g").contains(t, 1, "it is stopping")
	f.invoke(t, "sub", "shop/none/v1", "--group", "g").contains(t, 1, "404")
}

func TestSubUntilInterrupted(t *testing.T) {
	f := newFake(t)
	f.answer("GET /v1/gateways", 200, items(fmt.Sprintf(`{"id":"gw1","sub":%q}`, f.host())))
	f.handle("GET /v1/stream/shop/orders/v1", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "a\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	o := f.watch(t, nil, []string{"a\n"}, "sub", "shop/orders/v1", "--group", "g")
	o.want(t, 0, "a\n", "")
	cut := f.invoke(t, "sub", "shop/cut/v1", "--group", "g")
	if cut.code != 1 {
		t.Errorf("%+v", cut)
	}
	f.handle("GET /v1/stream/shop/broken/v1", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "a\n")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	f.invoke(t, "sub", "shop/broken/v1", "--group", "g").contains(t, 1, "a\n", "broke off")
}

// Where the management API is not there, and no address is given, the default one is asked.
func TestDefaultAddress(t *testing.T) {
	f := newFake(t)
	f.Close()
	tl, err := newTool(&global{Man: f.URL, Output: "table", Timeout: 1e9}, nil, streams{}, "v1")
	if err != nil {
		t.Fatal(err)
	}
	defer tl.close()
	if got := tl.advertised(t.Context(), "pub"); got != defaultData {
		t.Error(got)
	}
}

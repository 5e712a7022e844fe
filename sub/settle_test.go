package sub

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// outcomes are the codes of a settle answer's elements, "" for one that took effect.
func (r reply) outcomes(tb testing.TB) []string {
	tb.Helper()
	var answer struct {
		Results []struct {
			Error *struct{ Code string }
		}
	}
	if err := json.Unmarshal([]byte(r.body), &answer); err != nil {
		tb.Fatalf("%s: %v", r.body, err)
	}
	codes := make([]string, len(answer.Results))
	for i, e := range answer.Results {
		if e.Error != nil {
			codes[i] = e.Error.Code
		}
	}
	return codes
}

// held polls n messages that are to be acked, as one client.
func held(tb testing.TB, c *client, n int) []object {
	tb.Helper()
	list := objects(tb, c.get(fmt.Sprintf("%s?group=g&ack=explicit&batch=%d&client=me", topicPath, n), "Accept: "+typeJSONLines).want(tb, 200).body)
	if len(list) != n {
		tb.Fatalf("%d messages, want %d", len(list), n)
	}
	return list
}

func TestSettleTellsElementsApart(t *testing.T) {
	w := newWorld(t, 1)
	c := serve(t, w.mux, false)
	w.publish("a", "b", "c", "d")
	m := held(t, c, 4)
	verb := func(receipt, more string) string { return fmt.Sprintf(`{"receipt":%q,%s}`, receipt, more) }
	forged := m[0].Receipt[:len(m[0].Receipt)-1] + "A"
	if forged == m[0].Receipt {
		forged = m[0].Receipt[:len(m[0].Receipt)-1] + "B"
	}
	cases := []struct {
		name, body string
		status     int
		codes      string
	}{
		{"all", "[" + verb(m[1].Receipt, `"op":"ack"`) + "," + verb(m[0].Receipt, `"op":"ack"`) + "]", 200, ","},
		{"acked again", "[" + verb(m[0].Receipt, `"op":"ack"`) + "]", 200, ""},
		{"some", "[" + verb(m[2].Receipt, `"op":"extend","lease":"60s"`) + "," + verb("nonsense", `"op":"ack"`) + "]", 207, ",fenced"},
		{"some, the other way", "[" + verb(forged, `"op":"ack"`) + "," + verb(m[2].Receipt, `"op":"extend"`) + "]", 207, "fenced,"},
		{"none", "[" + verb(forged, `"op":"ack"`) + "," + verb("", `"op":"ack"`)[:0] + verb("x", `"op":"nack"`) + "]", 409, "fenced,fenced"},
		{"nothing to do", "[]", 200, ""},
		{"nack", "[" + verb(m[3].Receipt, `"op":"nack","delay":"1h"`) + "]", 200, ""},
		{"after the nack", "[" + verb(m[2].Receipt, `"op":"ack"`) + "]", 409, "fenced"},
	}
	for _, k := range cases {
		r := c.put(topicPath+"?group=g", k.body).want(t, k.status)
		if got := strings.Join(r.outcomes(t), ","); got != k.codes {
			t.Errorf("%s: %q, want %q: %s", k.name, got, k.codes, r.body)
		}
		if r.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %v", k.name, r.Header)
		}
		if k.status == 409 {
			r.problem(t, 409, "fenced")
		}
	}
	awaitCommit(t, w, "g", 2)
}

func TestSettleOfOneByHeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		c, stop := servePipes(t, w.mux)
		defer stop()
		w.publish("a")
		path := topicPath + "?group=g&ack=explicit&lease=30s"
		first := c.get(path).want(t, 200)
		c.put(topicPath+"?group=g&op=extend&lease=90s", "", "X-Receipt: "+first.Header.Get("X-Receipt")).want(t, 200)
		start := time.Now()
		second := c.get(path+"&wait=5m").want(t, 200)
		if took := time.Since(start); took != 90*time.Second {
			t.Errorf("delivered again after %v, want the 90s of the extend", took)
		}
		c.put(topicPath+"?group=g&op=nack&delay=118m", "", "X-Receipt: "+second.Header.Get("X-Receipt")).want(t, 200)
		for range 23 {
			c.get(path+"&wait=5m").want(t, 204)
		}
		if r := c.get(path+"&wait=5m").want(t, 200); r.Header.Get("X-Attempt") != "3" {
			t.Errorf("attempt %s, want 3", r.Header.Get("X-Attempt"))
		}
	})
}

func TestBadSettleRequestsChangeNothing(t *testing.T) {
	w := newWorld(t, 1)
	c := serve(t, w.mux, false)
	w.publish("a")
	receipt := held(t, c, 1)[0].Receipt
	good := fmt.Sprintf(`{"receipt":%q,"op":"ack"}`, receipt)
	big := strings.Repeat(" ", maxSettleBody)
	cases := []struct {
		query, body, header string
		status              int
		code, says          string
	}{
		{"", "[" + good + "]", "", 400, "invalid_param", "group is required"},
		{"?group=g&ack=x", "[" + good + "]", "", 400, "invalid_param", `"ack"`},
		{"?group=g", "", "", 400, "invalid_body", "JSON list"},
		{"?group=g", good, "", 400, "invalid_body", "JSON list"},
		{"?group=g", "null", "", 400, "invalid_body", "null"},
		{"?group=g", "[" + good + ",null]", "", 400, "invalid_param", "element 1"},
		{"?group=g", "[" + good + "", "", 400, "invalid_body", ""},
		{"?group=g", "[" + good + "]x", "", 400, "invalid_body", ""},
		{"?group=g", `[{"receipt":"x","op":"ack","op":"nack"}]`, "", 400, "invalid_body", "op"},
		{"?group=g", `[{"receipt":"x","op":"ack","colour":"red"}]`, "", 400, "invalid_body", "colour"},
		{"?group=g", `[{"Receipt":"x","op":"ack"}]`, "", 400, "invalid_body", "Receipt"},
		{"?group=g", `[` + good + `,{"receipt":"x"}]`, "", 400, "invalid_param", "element 1"},
		{"?group=g", `[` + good + `,{"op":"ack"}]`, "", 400, "invalid_param", "receipt is missing"},
		{"?group=g", `[` + good + `,{"receipt":"x","op":"burn"}]`, "", 400, "invalid_param", "ack, nack, extend, bury"},
		{"?group=g", `[` + good + `,{"receipt":"x","op":"eat"}]`, "", 400, "invalid_param", "eat"},
		{"?group=g", `[` + good + `,{"receipt":"x","op":"ack","delay":"1s"}]`, "", 400, "invalid_param", "delay goes with op nack"},
		{"?group=g", `[` + good + `,{"receipt":"x","op":"nack","lease":"1s"}]`, "", 400, "invalid_param", "lease goes with op extend"},
		{"?group=g", `[` + good + `,{"receipt":"x","op":"nack","delay":"25h"}]`, "", 400, "invalid_param", "24h"},
		{"?group=g", `[` + good + `,{"receipt":"x","op":"nack","delay":"-1s"}]`, "", 400, "invalid_param", "delay"},
		{"?group=g", `[` + good + `,{"receipt":"x","op":"extend","lease":"13h"}]`, "", 400, "invalid_param", "12h"},
		{"?group=g", `[` + good + `,{"receipt":"x","op":"nack","delay":10}]`, "", 400, "invalid_body", "delay"},
		{"?group=g", "[" + good + "]" + big, "", 413, "too_large", "1048576"},
		{"?group=g", "[" + strings.Repeat("{},", maxVerbs) + good + "]", "", 413, "too_large", "10001 elements"},
		{"?group=g", "[" + good + "]", "Content-Encoding: gzip", 415, "unsupported_encoding", "gzip"},
		{"?group=g&op=ack", "", "", 400, "invalid_param", "X-Receipt"},
		{"?group=g", "", "X-Receipt: " + receipt, 400, "invalid_param", "op"},
		{"?group=g&op=ack&delay=1s", "", "X-Receipt: " + receipt, 400, "invalid_param", "delay"},
		{"?group=g&op=ack", "[" + good + "]", "X-Receipt: " + receipt, 400, "invalid_body", "either"},
		{"?group=g&op=ack&op=nack", "", "X-Receipt: " + receipt, 400, "invalid_param", "2 times"},
	}
	for _, k := range cases {
		var header []string
		if k.header != "" {
			header = append(header, k.header)
		}
		if detail := c.put(topicPath+k.query, k.body, header...).problem(t, k.status, k.code); !strings.Contains(detail, k.says) {
			t.Errorf("%s %.80s: %q does not say %q", k.query, k.body, detail, k.says)
		}
	}
	// The message is still in its client's hands.
	c.get(topicPath+"?group=g&wait=0s&client=other").want(t, 204)
	c.put(topicPath+"?group=g", "["+good+"]").want(t, 200)
}

func TestABrokenBodySettlesNothing(t *testing.T) {
	w := newWorld(t, 1)
	c := serve(t, w.mux, false)
	w.publish("a")
	receipt := held(t, c, 1)[0].Receipt
	body := fmt.Sprintf(`[{"receipt":%q,"op":"ack"}]`, receipt)
	answer := rawExchange(t, c, fmt.Sprintf("PUT %s?group=g HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\nZZ\r\n", topicPath, len(body), body))
	if !strings.HasPrefix(answer, "HTTP/1.1 400 ") || !strings.Contains(answer, "invalid_body") || !strings.Contains(answer, "Connection: close") {
		t.Errorf("answer to a broken body: %s", answer)
	}
	c.get(topicPath+"?group=g&wait=0s&client=other").want(t, 204)
}

func TestReceiptsBelongToTheirGroup(t *testing.T) {
	w := newWorld(t, 1)
	c := serve(t, w.mux, false)
	w.publish("a")
	receipt := held(t, c, 1)[0].Receipt
	c.put(topicPath+"?group=h&op=ack", "", "X-Receipt: "+receipt).problem(t, 409, "fenced")
	c.put(topicPath+"?group=g&op=ack", "", "X-Receipt: "+receipt, "Appid: other").problem(t, 409, "fenced")
	c.put(topicPath+"?group=g&op=ack", "", "X-Receipt: "+receipt).want(t, 200)
}

func TestOffsets(t *testing.T) {
	w := newWorld(t, 1)
	c := serve(t, w.mux, false)
	w.publish("a", "b", "c", "d")
	m := held(t, c, 3)
	path := "/v1/offsets/shop/orders/v1/g"
	if r := c.put(path, `[{"partition":0,"offset":1}]`).want(t, 200); strings.Join(r.outcomes(t), ",") != "" {
		t.Errorf("%s", r.body)
	}
	awaitCommit(t, w, "g", 2)
	c.put(path, `[{"partition":0,"offset":3}]`).problem(t, 409, "conflict") // never delivered
	c.put(topicPath+"?group=g&op=ack", "", "X-Receipt: "+m[2].Receipt).want(t, 200)
	awaitCommit(t, w, "g", 3)
	c.put(path, `[]`).want(t, 200)
	if r := c.get(topicPath+"?group=g").want(t, 200); r.body != "d" {
		t.Errorf("%q, want d", r.body)
	}
}

func TestBadOffsets(t *testing.T) {
	c := serve(t, newWorld(t, 1).mux, false)
	path := "/v1/offsets/shop/orders/v1/g"
	for body, says := range map[string]string{
		`[{"partition":0}]`:             "needs partition and offset",
		`[{"offset":0}]`:                "needs partition and offset",
		`[null]`:                        "needs partition and offset",
		`[{"partition":-1,"offset":0}]`: "below 0",
		`[{"partition":0,"offset":-1}]`: "offset -1",
		`[{"partition":0,"offset":9223372036854775807}]`:               "9223372036854775807",
		`[{"partition":0,"offset":9223372036854775808}]`:               "",
		`[{"partition":4294967296,"offset":0}]`:                        "",
		`[{"partition":0,"offset":1.5}]`:                               "",
		`[{"partition":0,"offset":"1"}]`:                               "",
		`[{"partition":0,"offset":1},{"partition":0,"offset":2}]`:      "twice",
		`[{"partition":0,"partition":1,"offset":1}]`:                   "partition",
		`{"partition":0,"offset":1}`:                                   "JSON list",
		`[{"partition":0,"offset":1,"metadata":"x"}]`:                  "metadata",
		`[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[`: "",
	} {
		if detail := c.put(path, body).problem(t, 400, "invalid_body"); !strings.Contains(detail, says) {
			t.Errorf("%s: %q does not say %q", body, detail, says)
		}
	}
	c.put("/v1/offsets/shop/orders/v1/a.b", `[]`).problem(t, 400, "invalid_name")
	c.put(path+"?x=1", `[]`).problem(t, 400, "invalid_param")
	c.whole(http.MethodGet, path, "").want(t, 405)
}

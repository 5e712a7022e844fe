package sub

import "testing"

func TestPollGivesOneMessageAsItIs(t *testing.T) {
	w := newWorld(t, 1)
	c := serve(t, w.mux, false)
	w.publish("hello", "world")
	r := c.get(topicPath + "?group=g&wait=5s").want(t, 200)
	if r.body != "hello" || r.Header.Get("X-Offset") != "0" || r.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%q %v", r.body, r.Header)
	}
	t.Log(r.Header)
	r = c.get(topicPath + "?group=g&wait=5s").want(t, 200)
	t.Log(r.body, r.Header)
	r = c.get(topicPath + "?group=g&wait=0s").want(t, 204)
	s := c.stream(feedPath + "?group=g")
	w.publish("more")
	t.Log(s.line())
}

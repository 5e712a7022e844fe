package test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/kateway/kateway/test/checker"
	"github.com/kateway/kateway/test/storm"
)

// C12. Readers without a group that break off and resume, at another gateway process too, see every message of the topic once.
func TestBroadcastHasNoSeam(t *testing.T) {
	eachGround(t, func(t *testing.T, s *site, g storm.Ground) {
		gw := s.start(t)
		st := newStorm(t, s.app, "news", g, 3, 16, gw)
		var all []*follower
		for _, kind := range []string{"lines", "sse", "stream", "ws"} {
			for i := range 2 {
				all = append(all, follow(st, &st.Members, fmt.Sprint(kind, i), kind))
			}
		}
		st.Producers(3, 5*time.Millisecond)
		for range 2 {
			st.WaitProduced(200)
			heal := st.Fault("restart", "", false)
			gw.stop()
			gw = s.start(t)
			enter(st, gw)
			heal()
		}
		st.WaitProduced(200)
		st.Load.End()
		want := int(st.Produced.Load())
		for _, f := range all {
			waitFor(t, f.name+" to have everything", func() bool { return int(f.count.Load()) >= want })
		}
		st.Members.End()
		judge(st, checker.Limits{}, gw)
		for _, f := range all {
			if f.resumed.Load() < 5 {
				t.Errorf("%s resumed %d times only", f.name, f.resumed.Load())
			}
		}
	})
}

// follower reads without a group, with a cursor of what it has read.
type follower struct {
	*storm.Member
	name           string
	cursor         string
	count, resumed atomic.Int64
}

// follow makes one that begins at the oldest message.
func follow(s *storm.Storm, c *storm.Crew, name, kind string) *follower {
	s.H.Note(checker.Record{Op: checker.Declare, Phase: checker.OK, Topic: s.InStore(), Client: name, Spec: &checker.Spec{Mode: "broadcast", Whole: true}})
	ctx := c.Life(s.T)
	f := &follower{name: name, Member: &storm.Member{Storm: s, Habit: storm.Habit{Name: name, Kind: kind, Stay: 300 * time.Millisecond}, Party: &storm.Party{}, R: s.Random(name), HTTP: storm.NewHTTP(s.T)}}
	c.Wg.Go(func() {
		for ctx.Err() == nil {
			if !f.once(ctx) {
				select {
				case <-time.After(50 * time.Millisecond):
				case <-ctx.Done():
				}
			}
		}
	})
	return f
}

func (f *follower) once(ctx context.Context) bool {
	f.resumed.Add(1)
	d := f.Door(0)
	switch f.Kind {
	case "lines":
		return f.poll(d)
	case "ws":
		return f.socket(ctx, d)
	}
	return f.stream(ctx, d)
}

// from is what the query says of where to begin.
func (f *follower) from() string {
	if f.cursor == "" {
		return "?cursor=&reset=oldest"
	}
	return "?cursor=" + url.QueryEscape(f.cursor)
}

func (f *follower) record(op checker.Op, d storm.Door) checker.Record {
	return checker.Record{Op: op, Phase: checker.Invoke, Client: f.name, Via: d.Name, Topic: f.InStore()}
}

func (f *follower) poll(d storm.Door) bool {
	n := f.H.Note(f.record(checker.Poll, d))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	a, err := f.At(d).Exchange(ctx, "GET", "/v1/msgs/"+f.App+"/"+f.Topic+"/v1"+f.from()+"&wait=500ms&batch="+strconv.Itoa(1+f.R.IntN(20)), nil, "Accept", "application/x-ndjson")
	if err != nil || a.StatusCode != http.StatusOK && a.StatusCode != http.StatusNoContent {
		f.H.End(n, checker.Info, fmt.Sprint(a, err))
		return false
	}
	got := f.Parse(a) // a poll that broke off is asked again as a whole: its cursor came with its head
	f.H.End(n, checker.OK, "", got...)
	f.count.Add(int64(len(got)))
	f.cursor = a.Header.Get("X-Cursor")
	return true
}

func (f *follower) stream(ctx context.Context, d storm.Door) bool {
	n := f.H.Note(f.record(checker.Stream, d))
	accept, from := "application/x-ndjson", f.from()
	var header []string
	if f.Kind == "sse" {
		accept = "text/event-stream"
		if f.cursor != "" {
			from, header = "", []string{"Last-Event-ID", f.cursor}
		}
	}
	request, cut := context.WithCancel(context.Background())
	defer cut()
	resp, err := f.At(d).Open(request, "GET", "/v1/stream/"+f.App+"/"+f.Topic+"/v1"+from, nil, append(header, "Accept", accept)...)
	if err != nil {
		f.H.End(n, storm.Lost(err), err.Error())
		return false
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(resp.Body)
		f.H.End(n, storm.Outcome(resp.StatusCode), string(b))
		return false
	}
	done := f.Leave(ctx, n, cut)
	r := bufio.NewReader(resp.Body)
	id := ""
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			switch {
			case done():
			case errors.Is(err, io.EOF):
				f.H.End(n, checker.OK, "")
			default:
				f.H.End(n, checker.Info, err.Error())
			}
			return true
		}
		if v, ok := bytes.CutPrefix(line, []byte("id: ")); ok {
			id = string(bytes.TrimSpace(v))
		}
		if w, ok := f.Line(line, true); ok {
			if f.Kind == "stream" {
				id = w.Receipt
			}
			f.got(n, d, w, id)
		}
	}
}

// got notes a message and the cursor behind it.
func (f *follower) got(n int, d storm.Door, w checker.Message, cursor string) {
	w.Receipt = ""
	f.H.Note(checker.Record{Op: checker.Chunk, Phase: checker.OK, Of: n, Client: f.name, Via: d.Name, Topic: f.InStore(), Messages: []checker.Message{w}})
	f.count.Add(1)
	f.cursor = cursor
}

// socket follows a WebSocket, the second of them deflated.
func (f *follower) socket(ctx context.Context, d storm.Door) bool {
	n := f.H.Note(f.record(checker.Stream, d))
	dialer := websocket.Dialer{HandshakeTimeout: patience, NetDialContext: f.Dial, EnableCompression: strings.HasSuffix(f.name, "1")}
	conn, resp, err := dialer.Dial("ws"+strings.TrimPrefix(d.Base, "http")+"/v1/ws/msgs/"+f.App+"/"+f.Topic+"/v1"+f.from(), http.Header{"Appid": {f.App}})
	if err != nil {
		phase := storm.Lost(err)
		if resp != nil {
			phase = storm.Outcome(resp.StatusCode)
		}
		f.H.End(n, phase, err.Error())
		return false
	}
	defer conn.Close()
	done := f.Leave(ctx, n, func() { conn.Close() })
	for {
		_, frame, err := conn.ReadMessage()
		if err != nil {
			switch {
			case done():
			case websocket.IsCloseError(err, websocket.CloseServiceRestart):
				f.H.End(n, checker.OK, err.Error())
			default:
				f.H.End(n, checker.Info, err.Error())
			}
			return true
		}
		var note struct{ Event, Cursor string }
		if json.Unmarshal(frame, &note) == nil && note.Event == "cursor" {
			f.cursor = note.Cursor
		} else if w, ok := f.Object(frame); ok {
			f.got(n, d, w, w.Receipt)
		}
	}
}

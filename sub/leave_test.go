package sub

import (
	"runtime"
	"testing"

	"github.com/gorilla/websocket"

	"github.com/kateway/kateway/plugins"
)

// leaving is a porter that does not wait for the end of a lasting call.
type leaving struct{ porter }

func (*leaving) Leaves() {}

// Where nobody in the chain waits for its end a WebSocket leaves its request behind, and goes on: it is delivered to, its acks
// count, it is online, and it is told of the drain. Where somebody does the chain is around it.
func TestSocketLeavesItsRequest(t *testing.T) {
	for _, stays := range []bool{false, true} {
		w, p := newWorld(t, 1), new(leaving)
		w.plugins = []plugins.Plugin{p}
		if stays {
			w.plugins = []plugins.Plugin{&p.porter}
		}
		forgetGroups(t, w)
		c := serve(t, w.mux, false)
		s := c.socket(socketPath+"?group=bill1&ack=explicit&prefetch=1", "Subkey: bill")
		for ended := 0; ended == 0 && !stays; _, _, ended = p.last() {
			if t.Context().Err() != nil {
				t.Fatal("the plugin waits for the end")
			}
			runtime.Gosched()
		}
		w.publish("a", "b")
		o := s.object()
		s.say(`{"op":"ack","receipt":"` + o.Receipt + `"}`)
		if o = s.object(); o.text() != "b" { // there is room for it now
			t.Errorf("%+v", o)
		}
		if list := c.listed(); len(list) != 1 || list[0].App != "bill" || list[0].Messages < 1 {
			t.Errorf("online are %+v", list)
		}
		if _, begun, ended := p.last(); begun != 1 || ended == 0 != stays {
			t.Errorf("%d begun, %d ended while it is open, stays: %v", begun, ended, stays)
		}
		w.hub.Drain(0)
		s.closed(websocket.CloseServiceRestart)
	}
}

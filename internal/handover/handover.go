// Package handover lets a process give its listening sockets, and then all else that only one process may have, to another
// one that it has started. It knows nothing of what that is.
//
// The two speak over a pair of sockets that the new process inherits: it has no name, so that nobody else can reach it. One
// packet is one message, JSON, with file descriptors beside it where there are some:
//
//	new: hello (token)       old: sockets              the listening sockets, once it knows who says hello
//	new: prepared            it could start, and waits for what the old one has
//	old: yours (what)        this is free now
//	new: serving
//	old: lane                a connection that the old one makes to the new one, for requests that still come to it
//	old: stop                it was asked for an end meanwhile
//
// When the old process ends, everything is the new one's.
package handover

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
)

// Variable is that of the environment in which a process finds the way to the one that started it.
const Variable = "KATEWAY_HANDOVER"

// Socket is a listening socket.
type Socket struct {
	Address      string   `json:"address"` // as it was asked for; port 0 stays 0
	Roles        []string `json:"roles"`   // what is served there
	Given        bool     `json:"given"`   // by somebody else, who keeps it
	net.Listener `json:"-"`
}

// The types of messages.
const (
	typeHello    = "hello"
	typeSockets  = "sockets"
	typePrepared = "prepared"
	typeYours    = "yours"
	typeServing  = "serving"
	typeLane     = "lane"
	typeStop     = "stop"
)

// message is one packet.
type message struct {
	Type    string   `json:"type"`
	Token   string   `json:"token,omitempty"`
	What    string   `json:"what,omitempty"`
	Sockets []Socket `json:"sockets,omitempty"`
}

const (
	maxPacket = 64 << 10
	maxFiles  = 64
)

// encode is the message as a packet.
func (m *message) encode() ([]byte, error) {
	b, err := json.Marshal(m)
	if err == nil && len(b) > maxPacket {
		err = fmt.Errorf("message %s has %d bytes, at most %d are taken", m.Type, len(b), maxPacket)
	}
	return b, err
}

// Duplicate is another name for the same socket: it goes on listening when the first is closed.
func Duplicate(ln net.Listener) (net.Listener, error) {
	filer, ok := ln.(interface{ File() (*os.File, error) })
	if !ok {
		return nil, fmt.Errorf("the socket of %s can't be handed over", ln.Addr())
	}
	f, err := filer.File()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return net.FileListener(f) // makes a name of its own
}

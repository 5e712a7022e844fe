package gk

import (
	"encoding/json"
	"net"
	"strconv"
	"time"
)

// The types of this file are what gk looks at in the gateway's answers. They stand here and not in the packages that write
// them, since gk may be of another version than the gateway: a field that it does not know is passed over.

// problem is the body of an error (RFC 9457).
type problem struct {
	Detail string  `json:"detail"`
	Code   string  `json:"code"`
	Errors []fault `json:"errors"`
}

// fault is one of several reasons.
type fault struct {
	Path    string `json:"path"`
	Message string `json:"message"`
}

// instance is an element of GET /v1/gateways. Addresses are host:port, "" where the role is off.
type instance struct {
	ID      string    `json:"id"`
	Pub     string    `json:"pub"`
	Sub     string    `json:"sub"`
	Man     string    `json:"man"`
	Peer    string    `json:"peer"`
	Version string    `json:"version"`
	Host    string    `json:"host"`
	Started time.Time `json:"started"`
	Load    struct {
		PublishPerSecond float64 `json:"publish_per_second"`
		Streams          int     `json:"streams"`
	} `json:"load"`
}

// identity is what gk itself looks at in GET /v1/status.
type identity struct {
	ID       string   `json:"id"`
	Version  string   `json:"version"`
	Warnings []string `json:"warnings"`
}

// use is an element of GET /v1/clients: one client's use of one topic.
type use struct {
	Gateway  string    `json:"gateway"`
	Kind     string    `json:"kind"`
	App      string    `json:"app"`
	Owner    string    `json:"owner"`
	Topic    string    `json:"topic"`
	Ver      string    `json:"ver"`
	Group    string    `json:"group"`
	Remote   string    `json:"remote"`
	Since    time.Time `json:"since"`
	Messages int64     `json:"messages"`
	Bytes    int64     `json:"bytes"`
}

// topic is the name of the topic that is used.
func (u *use) topic() string {
	owner := u.Owner
	if owner == "" {
		owner = u.App
	}
	return owner + "/" + u.Topic + "/" + u.Ver
}

// message is the JSON object of a message.
type message struct {
	Partition   int32           `json:"partition"`
	Offset      int64           `json:"offset"`
	Timestamp   string          `json:"timestamp"`
	Key         string          `json:"key"`
	KeyBase64   string          `json:"key_base64"`
	Value       json.RawMessage `json:"value"`
	ValueBase64 *string         `json:"value_base64"`
}

// key is the key for people.
func (m *message) key() string {
	if m.KeyBase64 != "" {
		return "base64:" + m.KeyBase64
	}
	return m.Key
}

// value is the value for people.
func (m *message) value() string {
	switch {
	case m.ValueBase64 != nil:
		return "base64:" + *m.ValueBase64
	case string(m.Value) == "null":
		return "(deleted)"
	}
	var s string
	if json.Unmarshal(m.Value, &s) == nil {
		return s
	}
	return string(m.Value)
}

func hostPort(host string, port int32) string {
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}

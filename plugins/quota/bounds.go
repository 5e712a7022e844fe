package quota

import (
	"math"
	"strconv"
	"time"
)

// The rates that are limited.
const (
	requests = iota
	messages
	volume // bytes
	rates  // their number
)

// what is a limit that a request can be over.
type what uint8

const (
	nothing what = iota
	overRequests
	overMessages
	overBytes
	overCalls
	overStreams
	overInFlight
	overTopics
	overGroups
	whats
)

// limitNames are the names of limits, as in the configuration and in metrics.
var limitNames = [whats]string{ // read only
	overRequests: "requests_per_second", overMessages: "messages_per_second", overBytes: "bytes_per_second", overCalls: "connections",
	overStreams: "streams", overInFlight: "in_flight_bytes", overTopics: "topics", overGroups: "groups",
}

// scope is what limits are of.
type scope uint8

const (
	scopeApp scope = iota
	scopeKey
	scopeTopic
	scopeAddress
	scopes
)

var scopeNames = [scopes]string{"app", "key", "topic", "address"} // read only

// bounds are Limits as meters use them. They never change, and may be shared.
type bounds struct {
	Limits

	rate   [rates]float64 // per second; 0: no limit
	burst  float64        // in seconds
	policy []string       // the value of RateLimit-Policy; nil where no rate is limited
}

func newBounds(s scope, l Limits) *bounds {
	if l.Burst == 0 {
		l.Burst = defaultBurst
	}
	b := &bounds{Limits: l, rate: [rates]float64{l.Requests, l.Messages, float64(l.Bytes)}, burst: l.Burst.Seconds()}
	if text := b.policies(s); text != "" {
		b.policy = []string{text}
	}
	return b
}

// free reports that nothing is limited.
func (b *bounds) free() bool {
	return b.rate == [rates]float64{} && b.Calls == 0 && b.Streams == 0 && b.InFlight == 0 && b.Topics == 0 && b.Groups == 0
}

// units are the quota units of the rates in headers.
var units = [rates]string{"", `;qu="messages"`, `;qu="content-bytes"`} // read only; requests is the default

// rateNames are the names of policies in headers.
var rateNames = [rates]string{"requests", "messages", "bytes"} // read only

// policyName is the name of a policy: that of the rate, behind its scope where that is not the app.
func policyName(s scope, rate int) string {
	if s == scopeApp {
		return rateNames[rate]
	}
	return scopeNames[s] + "-" + rateNames[rate]
}

// policies is the value of RateLimit-Policy, as draft-ietf-httpapi-ratelimit-headers-10 has it.
func (b *bounds) policies(s scope) string {
	var text []byte
	for i, rate := range b.rate {
		if rate == 0 {
			continue
		}
		if len(text) > 0 {
			text = append(text, ", "...)
		}
		quota, window := b.window(i)
		text = append(text, '"')
		text = append(text, policyName(s, i)...)
		text = append(text, `";q=`...)
		text = strconv.AppendInt(text, quota, 10)
		text = append(text, units[i]...)
		text = append(text, ";w="...)
		text = strconv.AppendInt(text, window, 10)
	}
	return string(text)
}

// window tells a rate in whole numbers: so much in so many seconds, the burst or longer.
func (b *bounds) window(i int) (quota, seconds int64) {
	seconds = int64(math.Ceil(max(b.burst, 1/b.rate[i], 1)))
	return int64(min(b.rate[i]*float64(seconds), 1e15)), seconds
}

// seconds makes a duration of them, within reason.
func seconds(s float64) time.Duration {
	return time.Duration(min(max(s, 0), 24*3600) * float64(time.Second))
}

package sub

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/online"
)

const (
	typeJSONLines = "application/x-ndjson"
	typeBytes     = "application/octet-stream"
	typeText      = "text/plain"
	typeEvents    = "text/event-stream"
)

// pollForm is the shape of a poll's answer.
type pollForm uint8

const (
	pollRaw    pollForm = iota // one message, its bytes
	pollLines                  // one JSON object per line
	pollFrames                 // partition, offset, size, value
)

func choosePollForm(w *wish, batch int) (pollForm, error) {
	if batch == 1 {
		if w.base64 || accept(w.accept, typeBytes, typeJSONLines) == typeJSONLines {
			return pollLines, nil
		}
		return pollRaw, nil
	}
	if accept(w.accept, typeJSONLines, typeBytes) == typeBytes {
		return pollFrames, onlyJSON(w, typeBytes)
	}
	return pollLines, nil
}

// streamForm is the shape of a stream.
type streamForm uint8

const (
	streamLines  streamForm = iota // one JSON object per line
	streamText                     // bare values, one per line
	streamEvents                   // server-sent events
)

func (f streamForm) contentType() string {
	return [...]string{streamLines: typeJSONLines, streamText: typeText, streamEvents: typeEvents}[f]
}

// kind is what a client of this form is listed as.
func (f streamForm) kind() string {
	if f == streamEvents {
		return online.SSE
	}
	return online.Stream
}

func chooseStreamForm(w *wish) (streamForm, error) {
	switch accept(w.accept, typeJSONLines, typeText, typeEvents) {
	case typeText:
		return streamText, onlyJSON(w, typeText)
	case typeEvents:
		return streamEvents, nil
	}
	return streamLines, nil
}

// onlyJSON refuses a wish about JSON objects for a form that has none.
func onlyJSON(w *wish, form string) error {
	if w.base64 {
		return fmt.Errorf("value=base64 is for JSON answers, %s carries bare values: %w", form, errs.InvalidParam)
	}
	return nil
}

// preference is one element of an Accept header.
type preference struct {
	name string // lower case, without parameters
	q    float64
}

// preferences reads the elements of a header's values; malformed ones are passed over, as servers do.
func preferences(values []string) []preference {
	var list []preference
	for _, v := range values {
		for part := range strings.SplitSeq(v, ",") {
			name, params, _ := strings.Cut(part, ";")
			p := preference{strings.ToLower(strings.TrimSpace(name)), 1}
			for param := range strings.SplitSeq(params, ";") {
				k, v, _ := strings.Cut(param, "=")
				if strings.TrimSpace(strings.ToLower(k)) != "q" {
					continue
				}
				q, err := strconv.ParseFloat(strings.TrimSpace(v), 64)
				if err != nil || !(q >= 0 && q <= 1) {
					p.name = ""
				}
				p.q = q
			}
			if p.name != "" {
				list = append(list, p)
			}
		}
	}
	return list
}

// accept picks the media type that the Accept headers like best; at equal weight one that they name, then the earlier
// offer. The first offer is the default and also answers an Accept that allows none of them: a reader who sees another
// Content-Type than it asked for is better served than one who sees nothing.
func accept(values []string, offers ...string) string {
	if len(values) == 0 {
		return offers[0]
	}
	prefs := preferences(values)
	best, bestQ, bestExact := offers[0], 0.0, false
	for _, offer := range offers {
		q, exact := weight(prefs, offer)
		if q > bestQ || q > 0 && q == bestQ && exact && !bestExact {
			best, bestQ, bestExact = offer, q, exact
		}
	}
	return best
}

// weight is the quality of the most specific range that the media type falls under.
func weight(prefs []preference, mediaType string) (q float64, exact bool) {
	major, _, _ := strings.Cut(mediaType, "/")
	specific := 0
	for _, p := range prefs {
		s := 0
		switch p.name {
		case mediaType:
			s = 3
		case major + "/*":
			s = 2
		case "*/*":
			s = 1
		}
		if s > specific {
			specific, q = s, p.q
		}
	}
	return q, specific == 3
}

// coding is a content coding of an answer.
type coding uint8

const (
	identity coding = iota
	gzipped
	zstandard
)

func (c coding) String() string {
	return [...]string{identity: "identity", gzipped: "gzip", zstandard: "zstd"}[c]
}

// chooseCoding picks the coding that the Accept-Encoding headers like best: zstd where they leave the choice, nothing
// where they name none of ours.
func chooseCoding(values []string) coding {
	if len(values) == 0 {
		return identity
	}
	var q [3]float64
	for _, p := range preferences(values) {
		switch p.name {
		case "identity":
			q[identity] = p.q
		case "gzip", "x-gzip":
			q[gzipped] = p.q
		case "zstd":
			q[zstandard] = p.q
		}
	}
	best := identity
	for c := range coding(len(q)) {
		if q[c] > 0 && q[c] >= q[best] {
			best = c
		}
	}
	return best
}

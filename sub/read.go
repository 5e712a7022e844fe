package sub

import "net/http"

// newPoll is what a GET of /v1/msgs asks for.
func newPoll(*http.Request) action { return new(pollWish) }

// newStream is what a GET of /v1/stream asks for.
func newStream(*http.Request) action { return new(streamWish) }

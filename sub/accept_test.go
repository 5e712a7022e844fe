package sub

import "testing"

func TestAccept(t *testing.T) {
	offers := []string{typeJSONLines, typeText, typeEvents}
	cases := []struct {
		accept []string
		want   string
	}{
		{nil, typeJSONLines},
		{[]string{""}, typeJSONLines},
		{[]string{"*/*"}, typeJSONLines},
		{[]string{"text/event-stream"}, typeEvents},
		{[]string{"TEXT/Event-Stream; charset=utf-8"}, typeEvents},
		{[]string{"text/*"}, typeText},
		{[]string{"text/plain, text/event-stream"}, typeText},
		{[]string{"text/plain;q=0.5, text/event-stream"}, typeEvents},
		{[]string{"text/plain;q=0.5", "text/event-stream;q=0.9"}, typeEvents},
		{[]string{"*/*, text/event-stream"}, typeEvents},
		{[]string{"*/*;q=1, text/event-stream;q=0.2"}, typeJSONLines},
		{[]string{"text/event-stream;q=0"}, typeJSONLines},
		{[]string{"*/*, application/x-ndjson;q=0"}, typeText},
		{[]string{"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}, typeJSONLines},
		{[]string{"application/json"}, typeJSONLines},
		{[]string{"text/plain;q=nonsense, text/event-stream;q=0.1"}, typeEvents},
		{[]string{",;,q=;;,"}, typeJSONLines},
	}
	for _, c := range cases {
		if got := accept(c.accept, offers...); got != c.want {
			t.Errorf("%q: %s, want %s", c.accept, got, c.want)
		}
	}
}

func TestChooseCoding(t *testing.T) {
	for header, want := range map[string]coding{
		"":                              identity,
		"identity":                      identity,
		"gzip":                          gzipped,
		"x-gzip":                        gzipped,
		"zstd":                          zstandard,
		"gzip, deflate, br, zstd":       zstandard,
		"gzip;q=1, zstd;q=0.9":          gzipped,
		"gzip;q=0.5, zstd;q=0.5":        zstandard,
		"identity, gzip;q=0.5":          identity,
		"gzip;q=0, zstd;q=0":            identity,
		"br, deflate":                   identity,
		"*":                             identity,
		"GZIP":                          gzipped,
		"gzip;q=nonsense":               identity,
		"gzip;q=NaN":                    identity,
		"identity;q=0.1, gzip ; q=0.20": gzipped,
	} {
		if got := chooseCoding([]string{header}); got != want {
			t.Errorf("%q: %v, want %v", header, got, want)
		}
	}
	if got := chooseCoding([]string{"gzip", "zstd"}); got != zstandard {
		t.Errorf("two headers: %v", got)
	}
}

func TestPollForms(t *testing.T) {
	cases := []struct {
		accept string
		batch  int
		base64 bool
		want   pollForm
	}{
		{"", 1, false, pollRaw},
		{"*/*", 1, false, pollRaw},
		{"application/octet-stream", 1, false, pollRaw},
		{"application/json", 1, false, pollRaw},
		{"application/x-ndjson", 1, false, pollLines},
		{"application/x-ndjson, */*;q=0.1", 1, false, pollLines},
		{"", 1, true, pollLines},
		{"", 2, false, pollLines},
		{"*/*", 2, true, pollLines},
		{"application/octet-stream", 2, false, pollFrames},
		{"application/octet-stream;q=0.5, application/x-ndjson;q=0.6", 2, false, pollLines},
	}
	for _, c := range cases {
		got, err := choosePollForm(&wish{accept: []string{c.accept}, base64: c.base64}, c.batch)
		if err != nil || got != c.want {
			t.Errorf("%+v: %v %v", c, got, err)
		}
	}
}

func FuzzAccept(f *testing.F) {
	f.Add("text/html,application/xml;q=0.9,*/*;q=0.8")
	f.Add("gzip;q=1.0, identity; q=0.5, *;q=0")
	f.Fuzz(func(t *testing.T, header string) {
		switch accept([]string{header}, typeJSONLines, typeText) {
		case typeJSONLines, typeText:
		default:
			t.Errorf("%q: something that was not offered", header)
		}
		if c := chooseCoding([]string{header}); c > zstandard {
			t.Errorf("%q: coding %d", header, c)
		}
	})
}

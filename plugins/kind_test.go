package plugins

import (
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

func TestOptionsAreReadStrictly(t *testing.T) {
	type options struct {
		Wait time.Duration `yaml:"wait"`
		Max  int           `yaml:"max"`
		List []string      `yaml:"list"`
	}
	for text, faults := range map[string][]string{
		"":                        nil,
		"wait: 3s":                nil,
		"{max: 4, list: [a, b]}":  nil,
		"waits: 3s":               {"waits"},
		"max: many":               {"many"},
		"max: many\nunknown: 1":   {"many", "unknown"},
		"max: 1\nmax: 2":          {"max"},
		"just text":               {"just text"},
		"wait: 3":                 {"Duration"},
		"{max: 4, list: {a: b}}":  {"map"},
		"wait: [unclosed":         {""},
		"# nothing but a comment": nil,
	} {
		got := options{Wait: time.Second}
		err := ParseOptions(text).Into(&got)
		if (err == nil) != (faults == nil) {
			t.Errorf("%q: %v", text, err)
		}
		for _, f := range faults {
			if err != nil && (!strings.Contains(err.Error(), f) || strings.Contains(err.Error(), "line ")) {
				t.Errorf("%q: %v, without %q or with a line that nobody knows", text, err, f)
			}
		}
		if text == "" && got.Wait != time.Second {
			t.Error("a default was lost")
		}
	}
}

func TestOptionsOfANode(t *testing.T) {
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte("a:\n  wait: 3s\nb:\n"), &doc); err != nil {
		t.Fatal(err)
	}
	var got struct{ Wait time.Duration }
	top := doc.Content[0].Content
	if err := NewOptions(top[1]).Into(&got); err != nil || got.Wait != 3*time.Second {
		t.Errorf("%v, %v", got, err)
	}
	if !NewOptions(top[3]).Equal(Options{}) || None(NewOptions(top[3])) != nil || None(NewOptions(top[1])) == nil {
		t.Error("nothing is something")
	}
}

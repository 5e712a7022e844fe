package cli

import (
	"io"
	"os"
	"path/filepath"
	"testing"
)

// FuzzFile: a configuration file of any bytes is read or refused, and says which file when it is.
func FuzzFile(f *testing.F) {
	f.Add([]byte("pub: 127.0.0.1:0\nplugins:\n  - guard\n  - transform: {rules: []}\n"))
	f.Add([]byte("kafka: [a:1, b:2]\nspool-max-bytes: 1GiB\nspool: &x on\nman: *x\n"))
	f.Add([]byte("? [a]\n: b\n---\n"))
	f.Add([]byte("a: &a [*a]"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text []byte) {
		name := filepath.Join(dir, "kateway.yaml")
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
		_, _ = parse(nil, []string{"config", "check", "--config", name}, nil, io.Discard, io.Discard)
	})
}

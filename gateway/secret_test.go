package gateway

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSecret(t *testing.T) {
	dir := t.TempDir()
	first, err := loadSecret(dir)
	if err != nil || len(first) != secretSize || bytes.Equal(first, make([]byte, secretSize)) {
		t.Fatalf("%x, %v", first, err)
	}
	again, err := loadSecret(dir)
	if err != nil || !bytes.Equal(first, again) {
		t.Errorf("the second time %x, %v", again, err)
	}
	other, err := loadSecret(t.TempDir())
	if err != nil || bytes.Equal(first, other) {
		t.Errorf("elsewhere %x, %v", other, err)
	}
	info, err := os.Stat(filepath.Join(dir, "secret"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("left over: %v, %v", entries, err)
	}
}

func TestSecretThatIsCutShortIsNotReplaced(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "secret")
	if err := os.WriteFile(name, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadSecret(dir); err == nil || !strings.Contains(err.Error(), name) {
		t.Errorf("%v", err)
	}
	if b, _ := os.ReadFile(name); string(b) != "short" {
		t.Errorf("now %q", b)
	}
}

func TestSecretWithoutADirectory(t *testing.T) {
	if _, err := loadSecret(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("made in a directory that is not there")
	}
}

package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// documents are all Markdown files of the repository.
func documents(t *testing.T) map[string]string {
	t.Helper()
	docs := map[string]string{}
	for _, pattern := range []string{"../*.md", "../docs/*.md", "../docs/*/*.md"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			docs[name] = string(b)
		}
	}
	if len(docs) < 5 {
		t.Fatalf("only %d documents found", len(docs))
	}
	return docs
}

// Links to files lead somewhere.
func TestDocumentsLinkToWhatIsThere(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)
	for name, text := range documents(t) {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(name), m[1])); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// Every test, benchmark and fuzz target that a document names exists, so that a promise can't outlive its proof.
func TestDocumentsNameTestsThatExist(t *testing.T) {
	out, err := exec.Command("grep", "-rhoE", `^func (Test|Fuzz|Benchmark)[A-Z][A-Za-z0-9]*`, "..", "--include=*_test.go", "--include=*.go").Output()
	if err != nil {
		t.Fatal(err)
	}
	exists := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		exists[strings.TrimSpace(strings.TrimPrefix(line, "func "))] = true
	}
	named := regexp.MustCompile("`((?:Test|Fuzz|Benchmark)[A-Z][A-Za-z0-9]*)")
	found := 0
	for name, text := range documents(t) {
		for _, m := range named.FindAllStringSubmatch(text, -1) {
			if found++; !exists[m[1]] {
				t.Errorf("%s names %s, which is not there", name, m[1])
			}
		}
	}
	if found == 0 {
		t.Error("no document names a test")
	}
}

// Every file that the design document's map names exists.
func TestDesignMapsFilesThatExist(t *testing.T) {
	text := documents(t)["../docs/design.md"]
	file := regexp.MustCompile("`((?:[a-z]+/)+[a-z_]*(?:\\.go|\\.json|/)?)`")
	found := 0
	for _, m := range file.FindAllStringSubmatch(text, -1) {
		if found++; strings.HasPrefix(m[1], "v1/") {
			continue
		}
		if _, err := os.Stat(filepath.Join("..", m[1])); err != nil {
			t.Errorf("docs/design.md names %s: %v", m[1], err)
		}
	}
	if found < 10 {
		t.Errorf("only %d paths found", found)
	}
}

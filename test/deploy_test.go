package test

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// What deploy/ has is what this version takes: the example configuration, the variables of the compose file, the options in
// the unit, and, where systemd is there, the units themselves.
func TestDeployFilesFitTheBinary(t *testing.T) {
	if out, err := exec.Command(binary, "config", "check", "../deploy/kateway.yaml").CombinedOutput(); err != nil {
		t.Errorf("deploy/kateway.yaml: %v\n%s", err, out)
	}
	help, err := exec.Command(binary, "serve", "--help").CombinedOutput()
	if err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		b, err := os.ReadFile("../deploy/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	compose := read("compose.yaml")
	var parsed struct{ Services map[string]any }
	if err := yaml.Unmarshal([]byte(compose), &parsed); err != nil || len(parsed.Services) != 5 {
		t.Errorf("compose.yaml: %d services, %v", len(parsed.Services), err)
	}
	found := 0
	for _, name := range regexp.MustCompile(`KATEWAY_[A-Z_]+`).FindAllString(compose, -1) {
		option := "--" + strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(name, "KATEWAY_"), "_", "-"))
		if found++; option != "--admin-key" && !strings.Contains(string(help), " "+option) {
			t.Errorf("compose.yaml sets %s, which is no option", name)
		}
	}
	if found < 8 {
		t.Errorf("only %d variables found", found)
	}
	for _, option := range regexp.MustCompile(` (--[a-z-]+)`).FindAllStringSubmatch(read("kateway.service"), -1) {
		if o := option[1]; o != "--now" && !strings.Contains(string(help), " "+o) {
			t.Errorf("kateway.service names %s, which is no option", o)
		}
	}
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		return
	}
	for _, unit := range []string{"kateway.service", "kateway.socket", "kateway-man.socket"} {
		out, err := exec.Command("systemd-analyze", "verify", "--man=no", "../deploy/"+unit).CombinedOutput()
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, "kateway") && !strings.Contains(line, "not executable") {
				t.Errorf("%s: %s (%v)", unit, line, err)
			}
		}
	}
}

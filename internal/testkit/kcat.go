package testkit

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"
)

// Kcat runs kcat, a Kafka client that shares no code with this project, and answers its output. It is a witness for what
// is really in Kafka. Where it is not installed, the test is skipped by the same policy as without Kafka.
func (c *Cluster) Kcat(t testing.TB, stdin string, args ...string) string {
	t.Helper()
	if err := wanted("kcat"); err != nil {
		Missing(t, "kcat", err)
	}
	cmd := exec.CommandContext(t.Context(), "kcat", append([]string{"-b", strings.Join(c.Addrs(), ",")}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("kcat %s: %v\n%s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return string(out)
}

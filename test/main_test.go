// Package test drives the real binary from outside, as its users do: processes, signals, plain HTTP. Each scenario runs over
// the embedded store and over a real Kafka cluster, where there is one.
package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	_ "github.com/kateway/kateway/gateway" // so that go test does not take a cached result for true when the gateway has changed
	"github.com/kateway/kateway/internal/testkit"
)

var (
	binary  string // the path of kateway, built once by TestMain
	cluster = testkit.NewShared()
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "kateway-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "kateway")
	build := exec.Command("go", "build", "-o", binary, "../cmd/kateway")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // the static binary that users get
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building kateway: %v\n%s", err, out)
		return 1
	}
	defer cluster.Close()
	return m.Run()
}

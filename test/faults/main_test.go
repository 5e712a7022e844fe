// Package faults puts load on three gateways over three brokers of Kafka and three servers of ZooKeeper, each on a machine of
// its own as far as the network goes, and breaks one thing after the other. What was promised is judged by the checker.
package faults

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	_ "github.com/kateway/kateway/gateway" // so that go test does not take a cached result for true when the gateway has changed
)

var binary string // the path of kateway, built once by TestMain

func TestMain(m *testing.M) { os.Exit(mainly(m)) }

func mainly(m *testing.M) int {
	dir, err := os.MkdirTemp("", "kateway-faults-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "kateway")
	build := exec.Command("go", "build", "-o", binary, "../../cmd/kateway")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // the static binary that users get
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building kateway: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

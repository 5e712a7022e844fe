package test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kateway/kateway/internal/testkit"
)

// TestWalk runs the walk of docs/operations.md, word for word: three gateways, ZooKeeper, Kafka. The documented addresses
// lead to free ports: a program called kateway, in front of the real one, writes its arguments anew.
func TestWalk(t *testing.T) {
	t.Parallel()
	steps := stepsOf(t, "../docs/operations.md", "\n## A walk\n", "\x00")
	leads := map[string]string{"127.0.0.1:9092": testkit.Kafka(t).Addrs()[0], "127.0.0.1:2181": testkit.ZooKeeper(t)}
	for _, port := range []string{"9191", "9193", "9195", "9291", "9293", "9295", "9391", "9393", "9395"} {
		leads["127.0.0.1:"+port] = freeAddress(t)
	}
	home := t.TempDir()
	bin := filepath.Join(home, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bin, "kateway"), []byte(translator(leads)), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		logs, _ := filepath.Glob(filepath.Join(home, "walk", "*.log"))
		for _, name := range logs {
			b, _ := os.ReadFile(name)
			t.Logf("%s:\n%s", filepath.Base(name), b[max(0, len(b)-4000):])
		}
	})
	sh := openTerminal(t, home, leads, "PATH="+bin+":"+os.Getenv("PATH"))
	sh.run("exec 2>&1") // what goes wrong is to be seen
	for _, s := range steps {
		if out := sh.run(s.commands); s.prints != "" && !matches(s.prints, out) {
			t.Errorf("%s: %s\nprints\n%swant\n%s", s.where, s.commands, out, s.prints)
		} else {
			t.Logf("%s\n%s%s", s.where, s.commands, out)
		}
	}
}

// translator is a program that runs kateway with the real addresses in place of the documented ones.
func translator(leads map[string]string) string {
	var rules strings.Builder
	for documented, addr := range leads {
		fmt.Fprintf(&rules, " -e 's/%s/%s/g'", strings.ReplaceAll(documented, ".", `\.`), addr)
	}
	return fmt.Sprintf(`#!/bin/bash
args=()
for a in "$@"; do args+=("$(printf '%%s' "$a" | sed%s)"); done
if [ "$1" = gk ]; then export KATEWAY_MAN="http://%s"; fi
exec %s "${args[@]}"
`, rules.String(), leads["127.0.0.1:9193"], binary)
}

// freeAddress is an address of this machine that nobody listens on now, and that nobody is given who asks for any port: those
// come from above 32768.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(20_000))
		if ln, err := net.Listen("tcp", addr); err == nil {
			ln.Close()
			return addr
		}
	}
	t.Fatal("no free port found")
	return ""
}

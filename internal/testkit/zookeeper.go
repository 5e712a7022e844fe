package testkit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// ZooKeeper starts a ZooKeeper that ends with the test, and answers its address.
func ZooKeeper(t testing.TB) string {
	t.Helper()
	addr, stop, err := StartZooKeeper()
	if errors.Is(err, ErrMissing) {
		Missing(t, "ZooKeeper", err)
	}
	if err != nil {
		t.Fatalf("starting ZooKeeper: %v", err)
	}
	t.Cleanup(stop)
	return addr
}

// StartZooKeeper starts a ZooKeeper and answers its address and what ends it. ErrMissing where the machine can't.
func StartZooKeeper() (addr string, stop func(), err error) {
	if err := wanted("java", "mvn"); err != nil {
		return "", nil, err
	}
	lib, err := jars("zookeeper")
	if err != nil {
		return "", nil, err
	}
	for range 3 { // the port may be taken by another before ZooKeeper has it
		if addr, stop, err = startZooKeeper(lib); err == nil {
			return addr, stop, nil
		}
	}
	return "", nil, err
}

func startZooKeeper(lib string) (addr string, stop func(), err error) {
	ports, err := freePorts(1)
	if err != nil {
		return "", nil, err
	}
	dir, err := os.MkdirTemp("", "kateway-zookeeper-")
	if err != nil {
		return "", nil, err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(dir)
		}
	}()
	cfg := filepath.Join(dir, "zoo.cfg")
	text := fmt.Sprintf("dataDir=%s\nclientPort=%d\nclientPortAddress=127.0.0.1\ntickTime=500\nadmin.enableServer=false\n"+
		"4lw.commands.whitelist=*\n", filepath.Join(dir, "data"), ports[0])
	if err = os.WriteFile(cfg, []byte(text), 0o644); err != nil {
		return "", nil, err
	}
	p, err := start(filepath.Join(dir, "log"), "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
		"-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", filepath.Join(lib, "*"),
		"org.apache.zookeeper.server.quorum.QuorumPeerMain", cfg)
	if err != nil {
		return "", nil, err
	}
	addr = fmt.Sprintf("127.0.0.1:%d", ports[0])
	if err = p.listening(addr); err != nil {
		p.kill()
		return "", nil, err
	}
	return addr, func() { p.kill(); _ = os.RemoveAll(dir) }, nil
}

package testkit

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// ZooKeeper starts a ZooKeeper that ends with the test, and answers its address.
func ZooKeeper(t testing.TB) string {
	t.Helper()
	return ZooKeepers(t, 1).Addr()
}

// StartZooKeeper starts a ZooKeeper and answers its address and what ends it. ErrMissing where the machine can't.
func StartZooKeeper() (addr string, stop func(), err error) {
	e, err := StartZooKeepers(1, nil)
	if err != nil {
		return "", nil, err
	}
	return e.Addr(), e.Close, nil
}

// Ensemble is a running ZooKeeper of one or three servers. Sessions may last 1 s to 10 s. Its methods may be called
// concurrently, those on one server not.
type Ensemble struct {
	lib, dir string
	pair     [2]string // certificate and key, where the servers have an address with TLS too
	servers  []*zkServer
	at       Places
}

type zkServer struct {
	addr, cfg string
	secured   string // its address with TLS; "" without
	proc      *process
}

// ZooKeepers starts n servers, 1 or 3, that end with the test, and waits until they all serve.
func ZooKeepers(t testing.TB, n int) *Ensemble {
	t.Helper()
	e, err := StartZooKeepers(n, nil)
	if errors.Is(err, ErrMissing) {
		Missing(t, "ZooKeeper", err)
	}
	if err != nil {
		t.Fatalf("starting ZooKeeper: %v", err)
	}
	t.Cleanup(e.Close)
	return e
}

// SecuredZooKeeper is a server that has an address with TLS as well, with a certificate for the host.
func SecuredZooKeeper(t testing.TB, a *Authority, host string) *Ensemble {
	t.Helper()
	certFile, keyFile := a.For(host, time.Time{})
	e, err := startZooKeepers(1, here, [2]string{certFile, keyFile})
	if errors.Is(err, ErrMissing) {
		Missing(t, "ZooKeeper", err)
	}
	if err != nil {
		t.Fatalf("starting ZooKeeper: %v", err)
	}
	t.Cleanup(e.Close)
	return e
}

// StartZooKeepers is for those who share an ensemble among tests, or say where its servers run: nil is loopback. ErrMissing
// where the machine can't.
func StartZooKeepers(n int, at Places) (*Ensemble, error) {
	if at == nil {
		at = here
	}
	return startZooKeepers(n, at, [2]string{})
}

func startZooKeepers(n int, at Places, pair [2]string) (*Ensemble, error) {
	if err := wanted("java", "mvn"); err != nil {
		return nil, err
	}
	lib, err := jars("zookeeper")
	if err != nil {
		return nil, err
	}
	var e *Ensemble
	for range 3 { // a port may be taken by another before ZooKeeper has it
		if e, err = startEnsemble(lib, n, at, pair); err == nil {
			return e, nil
		}
	}
	return nil, err
}

func startEnsemble(lib string, n int, at Places, pair [2]string) (*Ensemble, error) {
	dir, err := os.MkdirTemp("", "kateway-zookeeper-")
	if err != nil {
		return nil, err
	}
	e := &Ensemble{lib: lib, dir: dir, pair: pair, at: at}
	if err = e.configure(n); err == nil {
		err = e.StartAll()
	}
	if err != nil {
		e.Close()
		return nil, err
	}
	return e, nil
}

func (e *Ensemble) configure(n int) error {
	ports, err := freePorts(4 * n)
	if err != nil {
		return err
	}
	members := ""
	for i := range n {
		host, _ := e.at(i)
		members += fmt.Sprintf("server.%d=%s:%d:%d\n", i+1, host, ports[n+2*i], ports[n+2*i+1])
	}
	if n == 1 {
		members = "" // else it waits for others
	}
	for i := range n {
		dir := filepath.Join(e.dir, fmt.Sprint(i+1))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		host, _ := e.at(i)
		s := &zkServer{addr: fmt.Sprintf("%s:%d", host, ports[i]), cfg: filepath.Join(dir, "zoo.cfg")}
		e.servers = append(e.servers, s)
		secured, err := s.secure(e.pair, ports[3*n+i])
		if err != nil {
			return err
		}
		text := fmt.Sprintf("dataDir=%s\nclientPort=%d\nclientPortAddress=%s\ntickTime=500\ninitLimit=20\nsyncLimit=10\n"+
			"admin.enableServer=false\nmaxClientCnxns=0\n4lw.commands.whitelist=*\n%s%s", dir, ports[i], host, members, secured)
		if err := os.WriteFile(s.cfg, []byte(text), 0o644); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "myid"), fmt.Append(nil, i+1), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// secure is the lines of the server's configuration for an address with TLS.
func (s *zkServer) secure(pair [2]string, port int) (string, error) {
	if pair[0] == "" {
		return "", nil
	}
	s.secured = fmt.Sprintf("127.0.0.1:%d", port)
	joined, err := joinPEM(filepath.Join(filepath.Dir(s.cfg), "server.pem"), pair[1], pair[0])
	return fmt.Sprintf("serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory\nsecureClientPort=%d\nsecureClientPortAddress=127.0.0.1\n"+
		"ssl.keyStore.location=%s\nssl.keyStore.type=PEM\nssl.clientAuth=none\n", port, joined), err
}

// SecuredAddr is the address with TLS of a SecuredZooKeeper.
func (e *Ensemble) SecuredAddr() string { return e.servers[0].secured }

// Addr is what a client is given: h:p, or h:p,h:p,h:p.
func (e *Ensemble) Addr() string { return strings.Join(e.Addrs(), ",") }

// Addrs are the servers' addresses.
func (e *Ensemble) Addrs() []string {
	var addrs []string
	for _, s := range e.servers {
		addrs = append(addrs, s.addr)
	}
	return addrs
}

// Stop ends server i with SIGKILL.
func (e *Ensemble) Stop(i int) {
	if p := e.servers[i].proc; p != nil {
		p.kill()
	}
}

// Start starts server i with what it had on disk, and waits until it serves: that needs most of the servers.
func (e *Ensemble) Start(i int) error {
	if err := e.run(i); err != nil {
		return err
	}
	return e.serving(i)
}

// StopAll ends all with SIGKILL.
func (e *Ensemble) StopAll() {
	for i := range e.servers {
		e.Stop(i)
	}
}

// StartAll starts all, and waits until they serve.
func (e *Ensemble) StartAll() error {
	for i := range e.servers {
		if err := e.run(i); err != nil {
			return err
		}
	}
	for i := range e.servers {
		if err := e.serving(i); err != nil {
			return err
		}
	}
	return nil
}

func (e *Ensemble) run(i int) error {
	s := e.servers[i]
	_, command := e.at(i)
	var err error
	s.proc, err = start(command, filepath.Join(filepath.Dir(s.cfg), "log"), "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
		"-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", filepath.Join(e.lib, "*"),
		"org.apache.zookeeper.server.quorum.QuorumPeerMain", s.cfg)
	return err
}

// serving waits until server i does.
func (e *Ensemble) serving(i int) error {
	s := e.servers[i]
	if err := s.proc.listening(s.addr); err != nil {
		return err
	}
	for end := time.Now().Add(startWait); s.mode() == ""; {
		select {
		case <-s.proc.done:
			return fmt.Errorf("server of %s ended\n%s", s.addr, s.proc.tail())
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s does not serve after %v\n%s", s.addr, startWait, s.proc.tail())
		}
	}
	return nil
}

// Pause freezes server i with SIGSTOP: its connections stay, nothing answers.
func (e *Ensemble) Pause(i int) error { return e.servers[i].proc.signal(syscall.SIGSTOP) }

// Resume lets server i go on after Pause.
func (e *Ensemble) Resume(i int) error { return e.servers[i].proc.signal(syscall.SIGCONT) }

// Leader is the server that leads, or the only one; -1 where none does.
func (e *Ensemble) Leader() int {
	for i, s := range e.servers {
		if m := s.mode(); m == "leader" || m == "standalone" {
			return i
		}
	}
	return -1
}

// mode is leader, follower or standalone; "" for a server that does not serve.
func (s *zkServer) mode() string {
	conn, err := net.DialTimeout("tcp", s.addr, time.Second)
	if err != nil {
		return ""
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second)) // the read fails then
	if _, err := conn.Write([]byte("srvr")); err != nil {
		return ""
	}
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		if mode, ok := strings.CutPrefix(lines.Text(), "Mode: "); ok {
			return mode
		}
	}
	return ""
}

// Close kills the servers and removes their data. A second Close does nothing.
func (e *Ensemble) Close() {
	e.StopAll()
	_ = os.RemoveAll(e.dir) // a leftover in the temporary folder is no reason to fail a test
}

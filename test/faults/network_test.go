package faults

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kateway/kateway/internal/testkit"
)

// lan is a switch with a machine on each wire: a network namespace for each, and one for the switch. They have no names: each
// lives as long as a process in it, which ends with this one, so that nothing is left behind however the run ends.
type lan struct {
	net string // 10.x.y
	hub *host
}

// host is a machine on the network.
type host struct {
	name, ip string
	pid      int // of who keeps it alive
	end      func()

	mu  sync.Mutex
	cut map[string]int // by the address of who can't be reached: how many faults want that
}

// newLAN makes one with the hosts named. Without the right to, the test is skipped.
func newLAN(t *testing.T, names ...string) map[string]*host {
	t.Helper()
	n := time.Now().UnixNano() / 1000
	l := &lan{net: fmt.Sprintf("10.%d.%d", 64+n%128, n/128%256)}
	l.hub = l.start(t, "hub", "")
	wire := fmt.Sprintf("kwf%x", n%0xffffff)
	l.must(t, l.hub.ip3("link", "add", "br0", "type", "bridge"), l.hub.ip3("link", "set", "br0", "up"),
		[]string{"ip", "link", "add", wire, "type", "veth", "peer", "name", "p0", "netns", strconv.Itoa(l.hub.pid)},
		l.hub.ip3("link", "set", "p0", "master", "br0", "up"),
		[]string{"ip", "addr", "add", l.net + ".1/24", "dev", wire}, []string{"ip", "link", "set", wire, "up"})
	hosts := map[string]*host{}
	for i, name := range names {
		h := l.start(t, name, fmt.Sprintf("%s.%d", l.net, i+10))
		port := fmt.Sprint("p", i+1)
		l.must(t, l.hub.ip3("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", strconv.Itoa(h.pid)),
			l.hub.ip3("link", "set", port, "master", "br0", "up"),
			h.ip3("link", "set", "lo", "up"), h.ip3("addr", "add", h.ip+"/24", "dev", "eth0"), h.ip3("link", "set", "eth0", "up"))
		hosts[name] = h
	}
	return hosts
}

func (l *lan) must(t *testing.T, commands ...[]string) {
	t.Helper()
	for _, c := range commands {
		if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
			testkit.Missing(t, "network namespaces", fmt.Errorf("%s: %w: %s", strings.Join(c, " "), err, out))
		}
	}
}

// start makes a namespace, with a process that keeps it.
func (l *lan) start(t *testing.T, name, ip string) *host {
	t.Helper()
	cmd := exec.Command("unshare", "-n", "sleep", "infinity")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	begun, ended := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread() // the death signal comes when the thread ends that started it
		defer close(ended)
		err := cmd.Start()
		begun <- err
		if err == nil {
			_ = cmd.Wait() // it is killed
		}
	}()
	if err := <-begun; err != nil {
		testkit.Missing(t, "network namespaces", err)
	}
	h := &host{name: name, ip: ip, pid: cmd.Process.Pid, cut: map[string]int{}}
	h.end = sync.OnceFunc(func() {
		h.killAll()
		_ = cmd.Process.Kill()
		<-ended
	})
	t.Cleanup(h.end)
	ours, _ := os.Readlink("/proc/self/ns/net")
	for limit := time.Now().Add(10 * time.Second); ; {
		if ns := h.namespace(); ns != "" && ns != ours {
			return h
		}
		select {
		case <-ended:
			testkit.Missing(t, "network namespaces", fmt.Errorf("unshare: %v", cmd.ProcessState))
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(limit) {
			t.Fatal("unshare does not begin")
		}
	}
}

func (h *host) namespace() string {
	ns, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", h.pid))
	return ns
}

// killAll kills whoever lives there, but for who keeps it.
func (h *host) killAll() {
	ns := h.namespace()
	all, _ := filepath.Glob("/proc/[0-9]*/ns/net")
	for _, f := range all {
		if other, err := os.Readlink(f); err != nil || other != ns || ns == "" {
			continue
		}
		if pid, _ := strconv.Atoi(strings.Split(f, "/")[2]); pid != h.pid && pid != os.Getpid() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// command begins one that runs on the host.
func (h *host) command() []string {
	return []string{"nsenter", "-t", strconv.Itoa(h.pid), "-n", "--"}
}

func (h *host) ip3(args ...string) []string { return append(append(h.command(), "ip"), args...) }

func run(command []string) error {
	if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, out)
	}
	return nil
}

// drop lets nothing from h arrive at the other host, in that direction only: its packets go to an address that nobody has.
// It ends as often as it was begun.
func (h *host) drop(to *host) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cut[to.ip]++; h.cut[to.ip] > 1 {
		return nil
	}
	return run(h.ip3("neigh", "replace", to.ip, "lladdr", "02:00:00:00:00:ff", "dev", "eth0", "nud", "permanent"))
}

// pass ends drop.
func (h *host) pass(to *host) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cut[to.ip]--; h.cut[to.ip] > 0 {
		return nil
	}
	delete(h.cut, to.ip)
	return run(h.ip3("neigh", "del", to.ip, "dev", "eth0"))
}

// slow lets the host send so many bits a second at most, with up to two seconds' worth waiting.
func (h *host) slow(bits int) error {
	return run(append(h.command(), "tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", fmt.Sprint(bits), "burst", "8kb", "latency", "2s"))
}

func (h *host) fast() error {
	return run(append(h.command(), "tc", "qdisc", "del", "dev", "eth0", "root"))
}

// reaches reports whether a new connection from h to the port of the other host comes about within a second.
func (h *host) reaches(to *host, port string) bool {
	c := append(h.command(), "timeout", "1", "bash", "-c", "exec 3<>/dev/tcp/"+to.ip+"/"+port)
	return exec.Command(c[0], c[1:]...).Run() == nil
}

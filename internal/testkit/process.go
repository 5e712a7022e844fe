package testkit

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"time"
)

const (
	startWait = 60 * time.Second // for a server to answer; a loaded machine needs ten times what an idle one does
	stopWait  = 20 * time.Second // for a server to end after SIGTERM
)

// process is a Java server that ends with this process.
type process struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when it has ended
}

// start runs java with the arguments, by a command where there is one, its output in the file log.
func start(command []string, log string, args ...string) (*process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	all := slices.Concat(command, []string{"java"}, args)
	p := &process{cmd: exec.Command(all[0], all[1:]...), log: log, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = f, f
	p.cmd.Dir = filepath.Dir(log)
	// A group of its own, so that Ctrl-C in a terminal reaches the tests first. Pdeathsig is bound to the thread that
	// starts the child: that thread must live as long as the child does.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait() // how a server ends is of no interest: tests kill them
		}
		close(p.done)
	}()
	return p, <-started
}

func (p *process) signal(s syscall.Signal) error {
	select {
	case <-p.done:
		return fmt.Errorf("process has ended: %w", os.ErrProcessDone)
	default:
		return p.cmd.Process.Signal(s)
	}
}

// kill ends it at once and waits for that.
func (p *process) kill() {
	_ = p.signal(syscall.SIGKILL) // ended already: just as well
	<-p.done
}

// stop lets it end by itself, and kills it when it does not.
func (p *process) stop() {
	_ = p.signal(syscall.SIGCONT)
	_ = p.signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(stopWait):
		p.kill()
	}
}

// listening waits until the address takes connections.
func (p *process) listening(addr string) error {
	for end := time.Now().Add(startWait); ; {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			return c.Close()
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s does not answer after %v: %w\n%s", addr, startWait, err, p.tail())
		}
		select {
		case <-p.done:
			return fmt.Errorf("server of %s ended\n%s", addr, p.tail())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (p *process) tail() []byte {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return []byte(err.Error())
	}
	return tail(b)
}

// freePorts answers n ports that are free now. Another process may take one before it is used: start again then.
func freePorts(n int) ([]int, error) {
	ports := make([]int, 0, n)
	var open []net.Listener // until all are found, else the same one may come twice
	defer func() {
		for _, l := range open {
			l.Close()
		}
	}()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		open = append(open, l)
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

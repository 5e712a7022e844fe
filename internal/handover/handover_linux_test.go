package handover

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// role is the variable of the environment that makes this program a new process.
const role = "HANDOVER_TEST_ROLE"

func TestMain(m *testing.M) {
	if name := os.Getenv(role); name != "" {
		os.Exit(heirs[name]())
	}
	goleak.VerifyTestMain(m)
}

// heirs are new processes, good and bad. Each answers its exit code.
var heirs = map[string]func() int{
	"good":   good,
	"dies":   func() int { return 5 },
	"closes": func() int { _ = syscall.Close(3); return forever() },
	"hangs":  forever,
	"leaves": func() int { inherited(); return 6 },
	"garbage": func() int {
		return sends("\x00\xff{")
	},
	"empty":      func() int { return sends("{}") },
	"large":      func() int { return sends(`{"type":"` + strings.Repeat("x", maxPacket+1) + `"}`) },
	"early":      func() int { return sends(`{"type":"prepared"}`) },
	"forges":     func() int { return sends(`{"type":"hello","token":"AAAAAAAAAAAAAAAAAAAAAAAAAA"}`) },
	"no token":   func() int { return sends(`{"type":"hello"}`) },
	"newer":      func() int { p := inherited(); say(p, `{"type":"prepared","since":"3.0"}`); return forever() },
	"unknown":    func() int { p := inherited(); say(p, `{"type":"promised"}`); return forever() },
	"twice":      func() int { p := inherited(); _, _ = p.Prepared(), p.Prepared(); return forever() },
	"hello anew": func() int { p := inherited(); say(p, `{"type":"hello"}`); return forever() },
	"takes":      func() int { p := inherited(); say(p, `{"type":"yours","what":"store"}`); return forever() },
	"delegates":  delegates,
}

func inherited() *Parent {
	p, err := Inherit(os.Getenv(Variable))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(7)
	}
	return p
}

func forever() int {
	_, _ = io.Copy(io.Discard, os.Stdin) // the test's end is its end
	return 0
}

func say(p *Parent, packet string) { _, _ = p.link.conn.Write([]byte(packet)) }

func sends(packet string) int {
	_, _ = unix.Write(3, []byte(packet))
	return forever()
}

// delegates has a child of its own say hello, with the token that is right.
func delegates() int {
	cmd := exec.Command(os.Args[0])
	cmd.Env = []string{role + "=good", Variable + "=" + os.Getenv(Variable)}
	cmd.ExtraFiles = []*os.File{os.NewFile(3, "pair")}
	_ = cmd.Run()
	return forever()
}

// good takes over, serves one line of each lane, and ends when it is told to.
func good() int {
	p := inherited()
	if err := p.Prepared(); err != nil {
		return 8
	}
	if err := p.Await(context.Background(), "store"); err != nil {
		return 9
	}
	if len(p.Sockets()) != 1 || p.Sockets()[0].Address != "here:0" || !slices.Equal(p.Sockets()[0].Roles, []string{"pub", "sub"}) || !p.Sockets()[0].Given {
		return 10
	}
	for _, ln := range []net.Listener{p.Sockets()[0], p.Lanes()} {
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				s, _ := bufio.NewReader(c).ReadString('\n')
				fmt.Fprintf(c, "new: %s", s)
				_ = c.Close()
			}
		}()
	}
	if err := p.Serving(); err != nil {
		return 11
	}
	<-p.Stopped()
	<-p.Given("what nobody names") // when the old process has gone all is ours
	return 0
}

// start starts a new process. It ends with the test.
func start(t *testing.T, name string, sockets ...Socket) *Child {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = []string{role + "=" + name}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	c, err := Start(cmd, sockets)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		c.Kill()
		if t.Failed() {
			t.Logf("the new process: %v %s", c.ended(), said.Bytes())
		}
	})
	return c
}

func listener(t *testing.T) net.Listener {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	return ln
}

// asks sends a line and answers what comes.
func asks(t *testing.T, c net.Conn, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintln(c, "hello")
	b, err := io.ReadAll(c)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

// A process takes over: the socket, what it is given, connections of the old one; and it hears of a stop and of the old one's
// end.
func TestTakesOver(t *testing.T) {
	ln := listener(t)
	c := start(t, "good", Socket{Address: "here:0", Roles: []string{"pub", "sub"}, Given: true, Listener: ln})
	if err := c.Prepared(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Give("store"); err != nil {
		t.Fatal(err)
	}
	if err := c.Serving(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		conn, err := c.Dial(t.Context())
		if got := asks(t, conn, err); got != "new: hello\n" {
			t.Errorf("over a lane comes %q", got)
		}
	}
	conn, err := net.Dial("tcp", ln.Addr().String())
	if got := asks(t, conn, err); got != "new: hello\n" {
		t.Errorf("over the socket comes %q", got)
	}
	if err := c.Stop(); err != nil {
		t.Error(err)
	}
	c.Close()
	<-c.Gone()
	if c.err != nil {
		t.Errorf("it ended with %v", c.err)
	}
}

// Whatever a new process does wrong, it is told of and never prepared.
func TestBadHeirs(t *testing.T) {
	for name, why := range map[string]string{
		"dies": "exit status 5", "leaves": "exit status 6", "closes": "EOF", "hangs": "in time",
		"garbage": "can't be understood", "empty": `says "" before hello`, "large": "too large", "early": `says "prepared" before hello`,
		"forges": "does not know the token", "no token": "does not know the token", "delegates": "is not the process",
		"unknown": `says "promised" out of turn`, "hello anew": `says "hello" out of turn`, "takes": `says "yours" out of turn`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ln := listener(t)
			c := start(t, name, Socket{Address: "here:0", Listener: ln})
			ctx, cancel := context.WithCancel(t.Context())
			if name == "hangs" || name == "closes" {
				ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
			}
			defer cancel()
			if err := c.Prepared(ctx); err == nil || !strings.Contains(err.Error(), why) {
				t.Errorf("prepared: %v; want %q", err, why)
			}
			if err := c.Serving(ctx); err == nil {
				t.Error("it serves")
			}
			c.Kill()
			if conn, err := net.Dial("tcp", ln.Addr().String()); err != nil {
				t.Errorf("the socket: %v", err)
			} else {
				_ = conn.Close()
			}
		})
	}
}

// What a newer version says besides is passed over; a word said twice ends the talk, though what was said counts.
func TestOtherVersions(t *testing.T) {
	c := start(t, "newer")
	if err := c.Prepared(t.Context()); err != nil {
		t.Error(err)
	}
	c = start(t, "twice")
	if err := c.Prepared(t.Context()); err != nil {
		t.Error(err)
	}
	if err := c.Serving(t.Context()); err == nil || !strings.Contains(err.Error(), "out of turn") {
		t.Errorf("serving: %v", err)
	}
}

// A process of another user is not believed, and believes nobody.
func TestOtherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can be another user")
	}
	ours, theirs, err := pair(unix.SOCK_SEQPACKET)
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	defer theirs.Close()
	fd := int(theirs.Fd())
	if err := trusted(fd); err != nil {
		t.Errorf("our own: %v", err)
	}
	done := make(chan error)
	go func() { // its thread is of another user from here on, and ends with it: it stays locked
		runtime.LockOSThread()
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, ^uintptr(0), 65534, ^uintptr(0)); errno != 0 {
			done <- errno
			return
		}
		done <- trusted(fd)
	}()
	if err := <-done; err == nil || !strings.Contains(err.Error(), "of user") {
		t.Errorf("another's: %v", err)
	}
	c := &Child{cmd: &exec.Cmd{Process: &os.Process{Pid: 7}}, token: "t"}
	hello := &message{Type: typeHello, Token: "t"}
	for _, from := range []*sender{nil, {8, os.Geteuid()}, {7, os.Geteuid() + 1}} {
		if c.check(hello, from) == nil {
			t.Errorf("%+v is believed", from)
		}
	}
	if err := c.check(hello, &sender{7, os.Geteuid()}); err != nil {
		t.Error(err)
	}
}

// Values that lead to no process that hands over.
func TestNobodyHandsOver(t *testing.T) {
	file, err := os.Create(t.TempDir() + "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	tcp, ok := listener(t).(*net.TCPListener)
	if !ok {
		t.Fatal("no TCP")
	}
	socket, err := tcp.File()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	for _, value := range []string{"", "x", "3", "3:", ":x", "-1:x", "0:x", "2:x", "99999999999999999999:x", "987:x", fmt.Sprint(dup(t, file), ":x"), fmt.Sprint(dup(t, socket), ":x")} {
		if p, err := Inherit(value); err == nil || p != nil {
			t.Errorf("%q: %v", value, err)
		}
	}
}

// dup is a descriptor that Inherit may close.
func dup(t *testing.T, f *os.File) int {
	t.Helper()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// elder is the old process's end of a pair, of which a test says what it wants.
func elder(t *testing.T) (old *link, value string) {
	t.Helper()
	ours, theirs, err := pair(unix.SOCK_SEQPACKET)
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	conn, ok := ours.(*net.UnixConn)
	if !ok {
		t.Fatal("no unix socket")
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &link{conn: conn}, fmt.Sprint(dup(t, theirs), ":token")
}

// An old process that answers a hello with anything but its sockets is not taken over from.
func TestBadElders(t *testing.T) {
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	for name, answer := range map[string]func(old *link) error{
		"ends":            func(old *link) error { return old.conn.Close() },
		"says garbage":    func(old *link) error { _, err := old.conn.Write([]byte("no JSON")); return err },
		"says other":      func(old *link) error { return old.send(&message{Type: typeYours, What: "store"}) },
		"names too many":  func(old *link) error { return old.send(&message{Type: typeSockets, Sockets: make([]Socket, 2)}, file) },
		"names too few":   func(old *link) error { return old.send(&message{Type: typeSockets}, file) },
		"sends no socket": func(old *link) error { return old.send(&message{Type: typeSockets, Sockets: make([]Socket, 1)}, file) },
		"says nothing":    func(*link) error { return nil }, // for 5 s
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			old, value := elder(t)
			if err := answer(old); err != nil {
				t.Fatal(err)
			}
			if p, err := Inherit(value); err == nil || p != nil {
				t.Errorf("it is taken over from: %v", err)
			}
		})
	}
}

// What was not given is waited for, up to the context's end; with the old process's end all is ours, and no lane comes any more.
func TestElderEnds(t *testing.T) {
	old, value := elder(t)
	if err := old.send(&message{Type: typeSockets}); err != nil {
		t.Fatal(err)
	}
	p, err := Inherit(value)
	if err != nil {
		t.Fatal(err)
	}
	over, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	if err := p.Await(over, "store"); err == nil || !strings.Contains(err.Error(), "enough") {
		t.Errorf("await: %v", err)
	}
	for _, packet := range []string{`{"type":"tomorrow"}`, `{"type":"lane"}`, `{"type":"yours","what":"store"}`, `{"type":"yours","what":"store"}`} {
		if _, err := old.conn.Write([]byte(packet)); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Await(t.Context(), "store"); err != nil {
		t.Error(err)
	}
	select {
	case <-p.Given("groups"):
		t.Error("groups were not given")
	default:
	}
	_ = old.conn.Close()
	if err := p.Await(t.Context(), "groups"); err != nil {
		t.Error(err)
	}
	if _, err := p.Lanes().Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a lane: %v", err)
	}
	if err := p.Serving(); err == nil {
		t.Error("somebody heard it")
	}
}

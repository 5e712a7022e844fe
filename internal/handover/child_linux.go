package handover

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Child is the process that takes over, as the one that started it sees it. Its methods may be called concurrently.
type Child struct {
	cmd     *exec.Cmd
	link    *link
	token   string
	sockets []Socket

	prepared, serving chan struct{} // closed when the child has said so

	gone   chan struct{} // closed when it has ended
	err    error         // how; set before gone is closed
	broken chan struct{} // closed when nothing can be heard from it any more
	why    error         // set before broken is closed
	reader sync.WaitGroup
}

// Start starts cmd, which has neither files nor an environment of its own that would be in the way: it gets the pair as an
// extra file, and Variable. The sockets are handed over once the child has shown who it is; they stay open here.
func Start(cmd *exec.Cmd, sockets []Socket) (*Child, error) {
	ours, theirs, err := pair(unix.SOCK_SEQPACKET)
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	conn, _ := ours.(*net.UnixConn) // it is: AF_UNIX
	if err := control(conn, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1) }); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	c := &Child{
		cmd: cmd, link: &link{conn: conn}, token: rand.Text(), sockets: sockets,
		prepared: make(chan struct{}), serving: make(chan struct{}), gone: make(chan struct{}), broken: make(chan struct{}),
	}
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%d:%s", Variable, 2+len(cmd.ExtraFiles), c.token))
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	go func() {
		c.err = cmd.Wait()
		close(c.gone)
	}()
	c.reader.Go(func() {
		c.why = c.listen()
		close(c.broken)
	})
	return c, nil
}

// listen hears the child until it breaks a rule or ends.
func (c *Child) listen() error {
	said := map[string]chan struct{}{typePrepared: c.prepared, typeServing: c.serving}
	for known := false; ; {
		m, files, from, err := c.link.receive()
		closeFiles(files) // it has none to give
		if err != nil {
			return err
		}
		if !known {
			if err := c.check(&m, from); err != nil {
				return err
			}
			known = true
			if err := c.giveSockets(); err != nil {
				return err
			}
			continue
		}
		done := said[m.Type]
		if done == nil {
			return fmt.Errorf("it says %q out of turn", m.Type)
		}
		delete(said, m.Type) // a second time is out of turn
		close(done)
	}
}

// check lets nobody in but the process that we started, by the kernel's word, and with the token that only it was told.
func (c *Child) check(m *message, from *sender) error {
	switch {
	case m.Type != typeHello:
		return fmt.Errorf("it says %q before hello", m.Type)
	case from == nil || from.pid != c.cmd.Process.Pid || from.uid != os.Geteuid():
		return fmt.Errorf("who says hello is not the process %d that was started", c.cmd.Process.Pid)
	case subtle.ConstantTimeCompare([]byte(m.Token), []byte(c.token)) != 1:
		return errors.New("it does not know the token")
	}
	return nil
}

func (c *Child) giveSockets() error {
	beside := make([]any, len(c.sockets))
	for i, s := range c.sockets {
		beside[i] = s.Listener
	}
	return c.link.send(&message{Type: typeSockets, Sockets: c.sockets}, beside...)
}

// PID is its process id.
func (c *Child) PID() int { return c.cmd.Process.Pid }

// Prepared waits until the child could start but for what we have.
func (c *Child) Prepared(ctx context.Context) error { return c.await(ctx, c.prepared, "prepared") }

// Serving waits until the child serves.
func (c *Child) Serving(ctx context.Context) error { return c.await(ctx, c.serving, "serving") }

// Give says that something is free.
func (c *Child) Give(what string) error { return c.link.send(&message{Type: typeYours, What: what}) }

// Stop says that an end was asked for.
func (c *Child) Stop() error { return c.link.send(&message{Type: typeStop}) }

// Dial makes a connection to the child that nobody else has the other end of.
func (c *Child) Dial(context.Context) (net.Conn, error) {
	ours, theirs, err := pair(unix.SOCK_STREAM)
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	if err := c.link.send(&message{Type: typeLane}, theirs); err != nil {
		return nil, errors.Join(err, ours.Close())
	}
	return ours, nil
}

func (c *Child) await(ctx context.Context, said <-chan struct{}, what string) error {
	select {
	case <-said:
		return nil
	default:
	}
	select {
	case <-said:
		return nil
	case <-c.gone:
		return fmt.Errorf("it ended before it was %s: %w", what, c.ended())
	case <-c.broken:
		if !errors.Is(c.why, io.EOF) {
			return fmt.Errorf("it is not %s: %w", what, c.why)
		}
		select { // it has ended, or is about to: that is the better reason
		case <-c.gone:
			return fmt.Errorf("it ended before it was %s: %w", what, c.ended())
		case <-said:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("it is not %s: %w", what, c.why)
		}
	case <-ctx.Done():
		return fmt.Errorf("it is not %s in time: %w", what, context.Cause(ctx))
	}
}

// ended is how it ended, an error in any case.
func (c *Child) ended() error {
	if c.err == nil {
		return errors.New("exit status 0")
	}
	return c.err
}

// Gone is closed when the process has ended.
func (c *Child) Gone() <-chan struct{} { return c.gone }

// Signal sends the process a signal.
func (c *Child) Signal(s os.Signal) error { return c.cmd.Process.Signal(s) }

// Kill ends the process and returns when it has ended, so that it has nothing any more.
func (c *Child) Kill() {
	_ = c.cmd.Process.Signal(syscall.SIGKILL) // it may have ended
	<-c.gone
	c.Close()
}

// Close ends the talk: the child goes on by itself, with everything.
func (c *Child) Close() {
	_ = c.link.conn.Close()
	c.reader.Wait()
}

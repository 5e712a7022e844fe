package handover

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// link is one end of the pair.
type link struct {
	conn *net.UnixConn
	mu   sync.Mutex // one packet at a time
}

// pair makes two sockets that are connected to each other.
func pair(kind int) (ours net.Conn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	theirs = os.NewFile(uintptr(fds[1]), "handover")
	own := os.NewFile(uintptr(fds[0]), "handover")
	defer own.Close()
	if ours, err = net.FileConn(own); err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}

// control runs f on the socket's descriptor. It must not use File or Fd: those change what all names of the socket share.
func control(s any, f func(fd int) error) error {
	c, ok := s.(syscall.Conn)
	if !ok {
		return errors.New("it has no file descriptor")
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// send writes one packet, with these sockets beside it.
func (l *link) send(m *message, beside ...any) error {
	b, err := m.encode()
	if err != nil {
		return err
	}
	fds := make([]int, 0, len(beside))
	return l.gather(beside, fds, func(fds []int) error {
		var rights []byte
		if len(fds) > 0 {
			rights = unix.UnixRights(fds...)
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		_, _, err := l.conn.WriteMsgUnix(b, rights, nil)
		return err
	})
}

// gather calls f with the descriptors of all, while none of them can be closed.
func (l *link) gather(beside []any, fds []int, f func(fds []int) error) error {
	if len(beside) == 0 {
		return f(fds)
	}
	return control(beside[0], func(fd int) error { return l.gather(beside[1:], append(fds, fd), f) })
}

// sender is who sent a packet, as the kernel says.
type sender struct{ pid, uid int }

// receive reads one packet. The files are the caller's. The sender is known where the socket was told to tell it.
func (l *link) receive() (m message, files []*os.File, from *sender, err error) {
	b, oob := make([]byte, maxPacket), make([]byte, unix.CmsgSpace(4*maxFiles)+unix.CmsgSpace(unix.SizeofUcred))
	n, oobn, flags, _, err := l.conn.ReadMsgUnix(b, oob)
	if err != nil {
		return m, nil, nil, err
	}
	parts, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return m, nil, nil, os.NewSyscallError("control message", err)
	}
	for i := range parts {
		if c, err := unix.ParseUnixCredentials(&parts[i]); err == nil {
			from = &sender{int(c.Pid), int(c.Uid)}
			continue
		}
		fds, err := unix.ParseUnixRights(&parts[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "handed over"))
		}
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = errors.New("a message is too large")
	} else {
		err = json.Unmarshal(b[:n], &m)
	}
	if err != nil {
		closeFiles(files)
		return m, nil, from, fmt.Errorf("what came can't be understood: %w", err)
	}
	return m, files, from, nil
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

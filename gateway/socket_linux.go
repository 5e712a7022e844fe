package gateway

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// setUserTimeout bounds how long bytes may be on their way to a client without its machine saying that they came. Set on
// a listening socket, it holds for its connections.
func setUserTimeout(c syscall.RawConn, d time.Duration) error {
	return control(c, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d/time.Millisecond))
	})
}

// refuseNew makes a listening socket deaf to who wants to connect, while those who have connected can still be accepted.
// Closing it right away would reset the connections in its queue, requests on their way and all. The filter drops what
// has the flag SYN without ACK.
func refuseNew(c syscall.RawConn) error {
	const (
		tcpFlags = 13 // offset in the TCP header, where a socket's filter begins to count
		syn      = 0x02
		synAck   = 0x12
	)
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: tcpFlags},
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: synAck},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: syn, Jt: 0, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0xffff},
	}
	return control(c, func(fd int) error {
		return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
			&unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
	})
}

func control(c syscall.RawConn, f func(fd int) error) (err error) {
	if outer := c.Control(func(fd uintptr) { err = f(int(fd)) }); outer != nil {
		return outer
	}
	return err
}

// fileLimit is how many files the process may have open; 0 where that is not known.
func fileLimit() int64 {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil || l.Cur > 1<<40 {
		return 0
	}
	return int64(l.Cur)
}

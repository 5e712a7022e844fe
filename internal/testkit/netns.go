package testkit

import (
	"fmt"
	"net"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// DialIn connects to an address over TCP from within a network namespace, which is a file such as /run/netns/NAME or
// /proc/PID/ns/net.
func DialIn(namespace, addr string, timeout time.Duration) (conn net.Conn, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocks: the thread, which is in another network, ends with the goroutine
		ns, e := unix.Open(namespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if e != nil {
			err = fmt.Errorf("%s: %w", namespace, e)
			return
		}
		defer unix.Close(ns)
		if err = unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
			return
		}
		conn, err = net.DialTimeout("tcp", addr, timeout)
	}()
	<-done
	return conn, err
}

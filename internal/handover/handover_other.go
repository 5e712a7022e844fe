//go:build !linux

package handover

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
)

var errLinux = errors.New("a process can hand over to another on Linux only")

// Child is nothing here.
type Child struct{}

// Start fails.
func Start(*exec.Cmd, []Socket) (*Child, error) { return nil, errLinux }

// PID is 0.
func (*Child) PID() int { return 0 }

// Prepared fails.
func (*Child) Prepared(context.Context) error { return errLinux }

// Serving fails.
func (*Child) Serving(context.Context) error { return errLinux }

// Give fails.
func (*Child) Give(string) error { return errLinux }

// Stop fails.
func (*Child) Stop() error { return errLinux }

// Dial fails.
func (*Child) Dial(context.Context) (net.Conn, error) { return nil, errLinux }

// Gone is never closed.
func (*Child) Gone() <-chan struct{} { return nil }

// Signal fails.
func (*Child) Signal(os.Signal) error { return errLinux }

// Kill does nothing.
func (*Child) Kill() {}

// Close does nothing.
func (*Child) Close() {}

// Parent is nothing here.
type Parent struct{}

// Inherit fails.
func Inherit(string) (*Parent, error) { return nil, errLinux }

// Sockets are none.
func (*Parent) Sockets() []Socket { return nil }

// Prepared fails.
func (*Parent) Prepared() error { return errLinux }

// Serving fails.
func (*Parent) Serving() error { return errLinux }

// Given is never closed.
func (*Parent) Given(string) <-chan struct{} { return nil }

// Await fails.
func (*Parent) Await(context.Context, string) error { return errLinux }

// Stopped is never closed.
func (*Parent) Stopped() <-chan struct{} { return nil }

// Lanes is nothing here.
func (*Parent) Lanes() net.Listener { return nil }

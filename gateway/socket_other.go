//go:build !linux

package gateway

import (
	"errors"
	"syscall"
	"time"
)

// Elsewhere keep-alives alone find clients that vanished, and a connection that comes while a listener closes may be
// reset. Both cost comfort, not correctness.

func setUserTimeout(syscall.RawConn, time.Duration) error { return errors.ErrUnsupported }

func refuseNew(syscall.RawConn) error { return errors.ErrUnsupported }

func fileLimit() int64 { return 0 }

package zk

import (
	"errors"
	"fmt"

	"github.com/go-zookeeper/zk"

	"github.com/kateway/kateway/internal/errs"
)

// ErrPerhapsDone is wrapped beside Unavailable where the change may have been made, or may yet be made.
var ErrPerhapsDone = errors.New("perhaps done")

// explain gives an error of the library its kind.
func explain(op, path string, write bool, err error) error {
	kind := errs.Unavailable
	switch {
	case err == nil:
		return nil
	case errors.Is(err, zk.ErrNoNode):
		kind = errs.NotFound
	case errors.Is(err, zk.ErrNodeExists), errors.Is(err, zk.ErrNotEmpty), errors.Is(err, zk.ErrNoChildrenForEphemerals):
		kind = errs.Conflict
	case errors.Is(err, zk.ErrBadVersion):
		kind = errs.PreconditionFailed
	case errors.Is(err, zk.ErrNoAuth), errors.Is(err, zk.ErrAuthFailed), errors.Is(err, zk.ErrInvalidACL):
		kind = errs.Denied
	case errors.Is(err, zk.ErrInvalidPath):
		kind = errs.InvalidName
	case errors.Is(err, zk.ErrNoServer): // it waited to be sent, and was not
	case write:
		return fmt.Errorf("zookeeper %s %s: %w: %w: %w", op, path, errs.Unavailable, ErrPerhapsDone, err)
	}
	return fmt.Errorf("zookeeper %s %s: %w: %w", op, path, kind, err)
}

// gone is true where there is no such node.
func gone(err error) bool { return errors.Is(err, zk.ErrNoNode) }

// lost is true where the connection, not the node, was at fault.
func lost(err error) bool {
	return errors.Is(err, zk.ErrConnectionClosed) || errors.Is(err, zk.ErrNoServer) || errors.Is(err, zk.ErrSessionExpired) ||
		errors.Is(err, zk.ErrSessionMoved) || errors.Is(err, zk.ErrClosing)
}

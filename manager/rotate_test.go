package manager_test

import (
	"context"
	"testing"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/manager"
)

func TestRotate(t *testing.T) {
	f := newFixture(t, nil)
	f.ask("POST", "/v1/secrets/peer/rotate", "").problem(t, errs.NotFound, "--zk")
	calls, outcome := 0, error(nil)
	f = newFixture(t, func(c *manager.Config) {
		c.Rotate = func(context.Context) error {
			calls++
			return outcome
		}
	})
	f.must(204, "POST", "/v1/secrets/peer/rotate", "")
	outcome = errs.Unavailable
	f.ask("POST", "/v1/secrets/peer/rotate", "").problem(t, errs.Unavailable)
	if calls != 2 {
		t.Errorf("%d calls", calls)
	}
}

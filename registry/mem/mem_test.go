package mem_test

import (
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"

	"github.com/kateway/kateway/registry/mem"
	"github.com/kateway/kateway/registry/registrytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestContract(t *testing.T) {
	registrytest.Run(t, registrytest.Config{New: func(*testing.T) func() registrytest.Member {
		all := mem.New()
		return func() registrytest.Member {
			m := all.Join()
			return registrytest.Member{Registry: m, Lose: func(id string) func() { m.Expire(id); return func() {} }}
		}
	}})
}

func TestExpireOfNobody(t *testing.T) {
	synctest.Test(t, func(*testing.T) { mem.New().Expire("nobody") })
}

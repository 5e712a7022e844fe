package mem_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/meta/mem"
	"github.com/kateway/kateway/meta/metatest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSource(t *testing.T) {
	metatest.Run(t, metatest.Config{New: func(*testing.T) metatest.Backend {
		first := mem.New()
		return metatest.Backend{
			Shared: true,
			Open:   func(*testing.T) meta.Source { return first.Another() },
			Edit:   func(_ *testing.T, id meta.ID, data []byte) { first.Corrupt(id, data) },
			Away:   func(_ *testing.T, _ meta.Source, away bool) { first.Away(away) },
			Spoil: func(_ *testing.T, id meta.ID) func() {
				was := first.Objects()[id]
				first.Corrupt(id, []byte("garbage"))
				return func() { first.Corrupt(id, was) }
			},
		}
	}})
}

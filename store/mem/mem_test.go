package mem_test

import (
	"testing"

	"github.com/kateway/kateway/store"
	"github.com/kateway/kateway/store/mem"
	"github.com/kateway/kateway/store/storetest"
)

func TestStore(t *testing.T) {
	storetest.Run(t, storetest.Config{
		New:    func(*testing.T) store.Store { return mem.New() },
		Reopen: func(_ *testing.T, s store.Store) store.Store { return s.(*mem.Store).Reopen() },
		Cut:    func(_ *testing.T, s store.Store) func() { return s.(*mem.Store).Cut() },
		Crash:  func(_ *testing.T, _ store.Store, f store.Feed) { mem.Crash(f) },
		Trim: func(t *testing.T, s store.Store, topic string, p int32, before int64) {
			if err := s.(*mem.Store).Trim(topic, p, before); err != nil {
				t.Fatal(err)
			}
		},
		TooLarge: mem.MaxMessage + 1,
	})
}

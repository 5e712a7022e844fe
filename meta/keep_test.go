package meta

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// disk takes 10 ms for each write and 20 ms for each sync.
type disk struct {
	strings.Builder

	synced int // bytes
	fault  error
}

func (d *disk) Write(p []byte) (int, error) {
	<-time.After(10 * time.Millisecond)
	return d.Builder.Write(p)
}

func (d *disk) Sync() error {
	<-time.After(20 * time.Millisecond)
	d.synced = d.Len()
	return d.fault
}

func TestSlices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &disk{}
		var pauses []time.Duration
		s := &slowly{w: d, began: time.Now(), pause: func(p time.Duration) {
			pauses = append(pauses, p)
			<-time.After(p)
		}}
		for _, part := range []string{"one,", "two,", "three"} {
			<-time.After(time.Millisecond) // the making of it counts
			if n, err := s.Write([]byte(part)); n != len(part) || err != nil {
				t.Fatal(n, err)
			}
			if d.synced != d.Len() {
				t.Errorf("%d bytes of %d are on the disk", d.synced, d.Len())
			}
		}
		for _, p := range pauses {
			if p != 9*31*time.Millisecond {
				t.Errorf("a pause of %v after 31 ms of work", p)
			}
		}
		if len(pauses) != 3 || d.String() != "one,two,three" {
			t.Errorf("%d pauses, %q", len(pauses), d.String())
		}
		d.fault = errors.New("no space")
		if _, err := s.Write([]byte("four")); !errors.Is(err, d.fault) {
			t.Errorf("a sync that failed: %v", err)
		}
	})
}

package httpx

import (
	"sync"
	"time"
)

// maxLines is how many failures of one route are logged in a second. When the store is down each request fails, and a log
// that grows with them would take the disk along; metrics count them all.
const maxLines = 10

// quota lets maxLines through in each second and counts the rest.
type quota struct {
	mu     sync.Mutex
	second int64
	used   int
	untold int
}

// take asks for one line. When it is granted, untold is how many were not since the last that was.
func (q *quota) take(now time.Time) (granted bool, untold int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if s := now.Unix(); s != q.second {
		q.second, q.used = s, 0
	}
	if q.used == maxLines {
		q.untold++
		return false, 0
	}
	q.used++
	untold, q.untold = q.untold, 0
	return true, untold
}

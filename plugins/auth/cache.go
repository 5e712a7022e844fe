package auth

import (
	"crypto/sha256"
	"sync"
	"time"
)

// What tokens are remembered: the bound of the cache is their product.
const (
	cacheShards = 16
	shardTokens = 1024
	evictTries  = 8 // of those that are there, looked at for one that has expired
)

// cache has tokens that were verified, by their hashes. When it is full, one that has expired goes, or any one: it is
// verified again when it comes again. Its methods may be called concurrently.
type cache struct {
	shards [cacheShards]struct {
		mu     sync.RWMutex
		tokens map[[sha256.Size]byte]*token
	}
}

func (c *cache) get(id [sha256.Size]byte) *token {
	s := &c.shards[id[0]%cacheShards]
	s.mu.RLock()
	t := s.tokens[id]
	s.mu.RUnlock()
	if t == nil || t.over(time.Now()) {
		return nil
	}
	return t
}

func (c *cache) put(id [sha256.Size]byte, t *token) {
	s := &c.shards[id[0]%cacheShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tokens == nil {
		s.tokens = map[[sha256.Size]byte]*token{}
	}
	if len(s.tokens) >= shardTokens {
		victim, tries, now := id, 0, time.Now()
		for k, old := range s.tokens { // in no order
			victim = k
			if tries++; tries >= evictTries || old.over(now) {
				break
			}
		}
		delete(s.tokens, victim)
	}
	s.tokens[id] = t
}

// size is how many there are.
func (c *cache) size() (n int) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.RLock()
		n += len(s.tokens)
		s.mu.RUnlock()
	}
	return n
}

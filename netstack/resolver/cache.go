package resolver

import (
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// maxEntries bounds the cache: 512 names × a few addresses are some 100 kB.
const maxEntries = 512

type cacheKey struct {
	name string // in lower case, with the final dot
	kind dnsmessage.Type
}

type cacheEntry struct {
	answer answer
	until  time.Time
}

// cache keeps answers for their time to live. The zero value is ready.
type cache struct {
	mu      sync.Mutex // guards entries
	entries map[cacheKey]cacheEntry
}

func (c *cache) get(k cacheKey) (answer, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[k]
	if !ok || !time.Now().Before(e.until) {
		return answer{}, false
	}
	return e.answer, true
}

func (c *cache) put(k cacheKey, a answer) {
	if a.ttl <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries == nil {
		c.entries = make(map[cacheKey]cacheEntry)
	}
	if _, ok := c.entries[k]; !ok && len(c.entries) >= maxEntries {
		c.evictLocked()
	}
	c.entries[k] = cacheEntry{a, time.Now().Add(a.ttl)}
}

// evictLocked makes room: what has expired goes, or else any one entry.
func (c *cache) evictLocked() {
	now := time.Now()
	for k, e := range c.entries {
		if !now.Before(e.until) {
			delete(c.entries, k)
		}
	}
	for k := range c.entries {
		if len(c.entries) < maxEntries {
			return
		}
		delete(c.entries, k)
	}
}

func (c *cache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.entries)
}

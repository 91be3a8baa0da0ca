package proxy

import (
	"net/http"
	"sync"
	"time"
)

// transports are a Transport for each user who sends absolute-form requests: a
// connection to a target is of the user it was dialed for, whose limits and rules it
// has, and of no other.
type transports struct {
	create func() *http.Transport
	idle   time.Duration // after which a Transport without requests has no connection left

	mu  sync.Mutex // guards all and what is in it
	all map[User]*userTransport
}

type userTransport struct {
	*http.Transport
	requests int       // under way
	used     time.Time // when the last began or ended
}

// RoundTrip sends a request of the visitor in its context.
func (t *transports) RoundTrip(req *http.Request) (*http.Response, error) {
	t.mu.Lock()
	ut := t.get(visitorOf(req.Context()).user)
	t.mu.Unlock()
	return ut.RoundTrip(req)
}

// get returns a user's Transport. The caller has locked mu.
func (t *transports) get(u User) *userTransport {
	ut := t.all[u]
	if ut == nil {
		for other, old := range t.all { // those of who has gone
			if old.requests == 0 && time.Since(old.used) > t.idle {
				delete(t.all, other)
			}
		}
		ut = &userTransport{Transport: t.create()}
		t.all[u] = ut
	}
	ut.used = time.Now()
	return ut
}

// hold keeps a user's Transport until release is called.
func (t *transports) hold(u User) (release func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ut := t.get(u)
	ut.requests++
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		ut.requests--
		ut.used = time.Now()
	}
}

// closeIdle closes the connections that carry no request.
func (t *transports) closeIdle() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, ut := range t.all {
		ut.CloseIdleConnections()
	}
}

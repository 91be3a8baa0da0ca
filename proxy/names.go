package proxy

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// The bounds of an association's names. What waits is for a client's first datagrams to a
// name to survive a lookup of some hundred milliseconds.
const (
	nameTime      = time.Minute     // how long an answer counts
	nameRetry     = 5 * time.Second // how long the lack of one does
	maxNames      = 256
	maxLookups    = 16        // at once
	maxWaiting    = 64        // datagrams, of all names
	maxWaitingLen = 256 << 10 // and bytes of them
)

// A nameTable has the names that a client sends datagrams to. Only datagrams to a name that
// is not known yet wait for it; no other does.
type nameTable struct {
	lookups sync.WaitGroup

	mu       sync.Mutex // guards what follows, and the names
	known    map[string]*name
	underWay int
	waiting  int // datagrams
	bytes    int // of these
}

// A name is one of them.
type name struct {
	text    string
	addrs   []netip.Addr // the one to use first; none if it is not known
	until   time.Time    // ask again after that
	looking bool
	waiting []waitingDatagram // while it is looked up for the first time
}

type waitingDatagram struct {
	port uint16
	data []byte
}

// toName sends a datagram to a name, at once if its address is known.
func (a *association) toName(ctx context.Context, d datagram) {
	n := &a.names
	n.mu.Lock()
	defer n.mu.Unlock()
	e := n.known[string(d.name)]
	if e == nil {
		if e = a.newName(string(d.name), d.to.Port()); e == nil {
			return
		}
	}
	if !e.looking && time.Now().After(e.until) {
		a.lookUp(ctx, string(d.name), e)
	}
	switch {
	case len(e.addrs) > 0:
		a.sendTo(e, d.to.Port(), d.data)
	case !e.looking:
		a.drop(DropUnresolved)
	case n.waiting == maxWaiting || n.bytes+len(d.data) > maxWaitingLen:
		a.drop(DropWaiting)
	default:
		e.waiting = append(e.waiting, waitingDatagram{d.to.Port(), slices.Clone(d.data)})
		n.waiting++
		n.bytes += len(d.data)
	}
}

// newName makes room for a name that may be asked for, or drops the datagram to it. n.mu
// is held.
func (a *association) newName(text string, port uint16) *name {
	n := &a.names
	_, err := target(text, int(port))
	switch {
	case err != nil:
		a.drop(DropDestination)
		return nil
	case visitor{user: a.user}.permitsName(text, port) != nil:
		a.drop(DropNotPermitted)
		return nil
	case n.underWay == maxLookups:
		a.drop(DropWaiting)
		return nil
	}
	if len(n.known) == maxNames {
		for other, e := range n.known { // any
			if !e.looking {
				delete(n.known, other)
				break
			}
		}
	}
	e := &name{text: text}
	n.known[text] = e
	return e
}

// lookUp asks for the addresses of a name, beside everything else. n.mu is held.
func (a *association) lookUp(ctx context.Context, text string, e *name) {
	n := &a.names
	if a.srv.Resolver == nil || n.underWay == maxLookups {
		e.until = time.Now().Add(nameRetry)
		return
	}
	e.looking = true
	n.underWay++
	n.lookups.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, a.srv.DialTimeout)
		defer cancel()
		addrs, err := a.srv.Resolver.LookupNetIP(ctx, "ip", text)
		n.mu.Lock()
		defer n.mu.Unlock()
		n.underWay--
		a.answered(e, addrs, err)
	})
}

// answered notes what a name is, and sends what waited for it. n.mu is held.
func (a *association) answered(e *name, addrs []netip.Addr, err error) {
	n := &a.names
	e.looking, e.until = false, time.Now().Add(nameTime)
	if err != nil || len(addrs) == 0 {
		// An address that was known goes on: the resolver may be out of reach.
		e.until = time.Now().Add(nameRetry)
	} else {
		e.addrs = slices.Clone(addrs)
		// IPv4 first: there is no telling whether datagrams arrive, and it is what
		// the tunnel rather has.
		slices.SortStableFunc(e.addrs, func(x, y netip.Addr) int { return x.Unmap().BitLen() - y.Unmap().BitLen() })
	}
	waiting := e.waiting
	e.waiting = nil
	n.waiting -= len(waiting)
	for _, w := range waiting {
		n.bytes -= len(w.data)
		if len(e.addrs) == 0 {
			a.drop(DropUnresolved)
			continue
		}
		a.sendTo(e, w.port, w.data)
	}
}

// sendTo sends to the address of a name that works. n.mu is held.
func (a *association) sendTo(e *name, port uint16, data []byte) {
	var err error
	for range e.addrs {
		if err = a.send(data, e.text, netip.AddrPortFrom(e.addrs[0].Unmap(), port)); err == nil {
			break
		}
		if why := dialReason(err); why != NetUnreachable && why != HostUnreachable && why != NoFamily {
			break
		}
		e.addrs = append(e.addrs[1:], e.addrs[0])
	}
	a.count(len(data), err)
}

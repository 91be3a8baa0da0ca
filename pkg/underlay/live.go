package underlay

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/netip"
	"slices"
	"syscall"
)

// errMoved is why an attempt is begun anew.
var errMoved = errors.New("the network has changed")

// maxWays bounds what is remembered of addresses that were connected to: a cluster
// may send us to many members over time.
const maxWays = 64

// state is what a Dialer knows of its connections, for Watch. The Dialer's mu guards
// all of it.
type state struct {
	open     []connection
	attempts map[*context.CancelCauseFunc]struct{}
	ways     map[netip.Addr]netip.Addr // by address connected to: the one we would connect from
	own      map[netip.Addr]net.Flags  // this machine's, when last looked at
	hurry    chan struct{}
}

// A connection is one that may still be open, by what it is known to the machine.
type connection struct {
	conn          net.Conn
	local, remote netip.Addr
}

// isOpen tells by the socket, so that whoever closes a connection need not say so.
func (c connection) isOpen() bool {
	raw, err := c.conn.(syscall.Conn).SyscallConn()
	return err == nil && raw.Control(func(uintptr) {}) == nil
}

// begin returns the context of an attempt, which ends early when the network changes.
func (d *Dialer) begin(ctx context.Context) (attempt context.Context, done func()) {
	attempt, cancel := context.WithCancelCause(ctx)
	key := &cancel
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.attempts == nil {
		d.attempts = make(map[*context.CancelCauseFunc]struct{})
	}
	d.attempts[key] = struct{}{}
	return attempt, func() {
		d.mu.Lock()
		delete(d.attempts, key)
		d.mu.Unlock()
		cancel(nil)
	}
}

// restart begins all attempts anew.
func (d *Dialer) restart() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for cancel := range d.attempts {
		(*cancel)(errMoved)
	}
}

// track remembers a connection until it is closed.
func (d *Dialer) track(conn net.Conn) {
	if _, ok := conn.(syscall.Conn); !ok {
		return
	}
	local, err1 := netip.ParseAddrPort(conn.LocalAddr().String())
	remote, err2 := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err1 != nil || err2 != nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.prune()
	d.open = append(d.open, connection{conn, plain(local.Addr()), plain(remote.Addr())})
}

// live returns the connections that are open.
func (d *Dialer) live() []connection {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.prune()
	return slices.Clone(d.open)
}

// prune forgets what is closed. The caller holds mu.
func (d *Dialer) prune() {
	d.open = slices.DeleteFunc(d.open, func(c connection) bool { return !c.isOpen() })
}

// note remembers how addresses are reached that are about to be connected to.
func (d *Dialer) note(addrs []netip.Addr) {
	if d.connect != nil && d.system.machine == nil {
		return // in a test, whose connections leave no machine
	}
	now := make(map[netip.Addr]netip.Addr)
	for _, a := range addrs {
		now[a] = d.machine().way(d.Bind, a)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ways == nil || len(d.ways)+len(now) > maxWays {
		d.ways = make(map[netip.Addr]netip.Addr)
	}
	maps.Copy(d.ways, now)
}

// moved reports whether another attempt would go another way than the last, or if
// there was none, whether this machine has other addresses.
func (d *Dialer) moved(own map[netip.Addr]net.Flags) bool {
	d.mu.Lock()
	before := maps.Clone(d.ways)
	changed := len(before) == 0 && !maps.Equal(d.own, own)
	d.own = own
	d.mu.Unlock()
	for to, from := range before {
		now := d.machine().way(d.Bind, to)
		if now == from {
			continue
		}
		changed = true
		d.mu.Lock()
		if d.ways[to] == from { // no attempt has noted it meanwhile
			d.ways[to] = now
		}
		d.mu.Unlock()
	}
	return changed
}

// Changed yields when it makes sense to try again at once, as the network has changed
// and no connection is left. Watch feeds it; it holds one value at most.
func (d *Dialer) Changed() <-chan struct{} { return d.hurrying() }

func (d *Dialer) hurrying() chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.hurry == nil {
		d.hurry = make(chan struct{}, 1)
	}
	return d.hurry
}

func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

package underlay

import (
	"context"
	"net"
	"net/netip"
	"time"
)

const (
	// settle is how long to wait for more to happen: one change of a network is
	// many messages, of the link, its addresses and its routes.
	settle = 100 * time.Millisecond
	// rest is the least time between two looks, for machines whose routes change all
	// the time.
	rest = 500 * time.Millisecond
	// pulse is how often to ask whether the machine has slept.
	pulse = time.Second
	// nap is a sleep that connections outlive: no server has given up by then, and the
	// other end has seen no more than a gap in the keep-alives. After a longer one it
	// is quicker to connect anew than to find out.
	nap = 10 * time.Second
	// pollEvery is how often to look where the system does not say when.
	pollEvery = 5 * time.Second
)

// Watch follows the machine's network until ctx ends, and returns ctx.Err(). A
// connection whose way has gone is cut, so that its user need not wait for a time-out:
// when the address that it comes from is on no interface any more, or its interface is
// down, or has lost its carrier while there is another way, and all of them when the
// machine has slept. Other changes leave connections alone. Attempts that are under
// way begin anew when theirs changes, and Changed yields when nothing is left to lose.
func (d *Dialer) Watch(ctx context.Context) error {
	events, stop := d.events()
	defer stop()
	slept := d.sleepClock()
	total := slept()
	tick := time.NewTicker(pulse)
	defer tick.Stop()
	if own, err := d.machine().addresses(); err == nil {
		d.moved(own) // to have something to compare with
	}
	looked := time.Now()
	ready := events // nil while there is to be rest
	var rested <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ready:
			if !pause(ctx, settle) {
				return ctx.Err()
			}
			drain(events)
			d.look(0)
			ready, rested = nil, time.After(rest)
		case <-rested:
			ready, rested = events, nil
		case <-tick.C:
			now := slept()
			switch sleep := now - total; {
			case sleep >= nap:
				d.look(sleep)
			case events == nil && time.Since(looked) >= pollEvery:
				d.look(0)
				looked = time.Now()
			}
			total = now
		}
	}
}

func drain(events <-chan struct{}) {
	select {
	case <-events:
	default:
	}
}

// pause waits, and reports whether ctx has lasted.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// look compares the network with what the connections need, after a sleep if slept is
// not zero.
func (d *Dialer) look(slept time.Duration) {
	own, err := d.machine().addresses()
	if err != nil {
		d.logger().Debug("the machine's addresses cannot be read", "cause", err)
		if slept == 0 {
			return
		}
	}
	live, lost := d.live(), 0
	for _, c := range live {
		why := "the machine has slept for " + slept.Round(time.Second).String()
		if slept == 0 {
			why = d.stranded(c, own)
		}
		if why != "" {
			d.logger().Warn("cutting a connection that leads nowhere", "from", c.local, "to", c.remote, "cause", why)
			c.conn.Close()
			lost++
		}
	}
	moved := d.moved(own)
	d.logger().Debug("looked at the network", "connections", len(live), "cut", lost, "another_way", moved)
	if lost == 0 && !moved && slept == 0 {
		return
	}
	d.restart()
	if lost == len(live) {
		select {
		case d.hurrying() <- struct{}{}:
		default: // it says so already
		}
	}
}

// stranded says why a connection cannot carry anything any more, or nothing.
func (d *Dialer) stranded(c connection, own map[netip.Addr]net.Flags) string {
	flags, ok := own[c.local]
	switch {
	case !ok && !d.machine().has(c.local):
		return "its address is gone"
	case !ok:
		return ""
	case flags&net.FlagUp == 0:
		return "its interface is down"
	case flags&net.FlagRunning == 0:
		if from := d.machine().way(d.Bind, c.remote); from.IsValid() && from != c.local {
			return "its interface has lost its link, and there is another way"
		}
	}
	return ""
}

// The Dialer's own ways to ask, or those of a test.

func (d *Dialer) machine() machine {
	if d.system.machine == nil {
		return here{}
	}
	return d.system.machine
}

func (d *Dialer) events() (<-chan struct{}, func()) {
	if d.system.machine != nil {
		return d.system.events, func() {}
	}
	events, stop, err := listen()
	if err != nil {
		d.logger().Debug("changes of the network are not announced, looking from time to time", "cause", err)
		return nil, func() {}
	}
	return events, stop
}

func (d *Dialer) sleepClock() func() time.Duration {
	if d.system.slept != nil {
		return d.system.slept
	}
	return sleepClock()
}

// system is what a test may have in place of the machine.
type system struct {
	machine machine
	events  <-chan struct{}      // nil if nothing is announced
	slept   func() time.Duration // how long the machine has slept in all
}

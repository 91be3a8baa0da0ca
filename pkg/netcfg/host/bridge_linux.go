package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"softether-go/pkg/netcfg"
)

// A Port is a TAP in a Linux bridge: the sites at both ends of the tunnel are one
// Ethernet. The host itself has no address on it, and there is nothing to take back:
// the TAP leaves the bridge when it ends.
type Port struct {
	tap, bridge string
	index       int             // the TAP's
	nl          *netlink.Handle // the zero one, which opens a socket for each request
	log         *slog.Logger
	missed      bool // the log says that the bridge is gone; Watch's only
}

// JoinBridge makes the TAP a port of the bridge and sets its link up. The bridge
// stays as it is: its MTU, which the kernel would lower to that of the TAP, and its
// MAC address if the TAP's is not lower than those of its other ports (the log tells
// otherwise); one that begins with fe hardly ever is. The TAP is to be one that
// nobody else uses, as when an error is returned it may have changed.
func JoinBridge(tap, bridge string, log *slog.Logger) (*Port, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	p := &Port{tap: tap, bridge: bridge, nl: &netlink.Handle{}, log: log}
	t, err := p.nl.LinkByName(tap)
	if err != nil {
		return nil, fmt.Errorf("host: %s: %w", tap, err)
	}
	p.index = t.Attrs().Index
	if err := p.join(t); err != nil {
		return nil, fmt.Errorf("host: join %s to bridge %s: %w", tap, bridge, err)
	}
	return p, nil
}

// look returns the bridge.
func (p *Port) look() (netlink.Link, error) {
	b, err := p.nl.LinkByName(p.bridge)
	var none netlink.LinkNotFoundError
	switch {
	case errors.As(err, &none):
		return nil, fmt.Errorf("there is no such bridge: make it (ip link add %[1]s type bridge; ip link set %[1]s up) "+
			"and join the interface of the site to it", p.bridge)
	case err != nil:
		return nil, err
	case b.Type() != "bridge":
		return nil, fmt.Errorf("that is an interface of the kind %s and no bridge: name one, "+
			"or make it (ip link add br0 type bridge; ip link set br0 up)", b.Type())
	}
	return b, nil
}

func (p *Port) join(t netlink.Link) error {
	b, err := p.look()
	if err != nil {
		return err
	}
	if err := p.plug(t, b); err != nil {
		if errors.Is(err, fs.ErrPermission) {
			err = fmt.Errorf("%w: needs root or CAP_NET_ADMIN", err)
		}
		return err
	}
	p.report(b)
	return nil
}

func (p *Port) plug(t, b netlink.Link) error {
	if err := p.silence(); err != nil {
		return fmt.Errorf("switch IPv6 off on the port: %w", err)
	}
	// The kernel gives a bridge the least MTU of its ports, unless someone has set
	// one. Other stations of the site do not get to know of that.
	if mtu := b.Attrs().MTU; mtu > t.Attrs().MTU {
		if err := p.nl.LinkSetMTU(t, mtu); err != nil {
			return fmt.Errorf("set MTU %d as the bridge has: %w", mtu, err)
		}
	}
	if err := p.nl.LinkSetMaster(t, b); err != nil {
		return err
	}
	if err := p.nl.LinkSetUp(t); err != nil {
		return fmt.Errorf("set the link up: %w", err)
	}
	return nil
}

// SetUpSilent sets the link of an interface up that the host is only to listen by: without
// an address, also of IPv6.
func SetUpSilent(name string) error {
	p := &Port{tap: name, nl: &netlink.Handle{}}
	if err := p.silence(); err != nil {
		return fmt.Errorf("host: %s: switch IPv6 off: %w", name, err)
	}
	link, err := p.nl.LinkByName(name)
	if err == nil {
		err = p.nl.LinkSetUp(link)
	}
	if err != nil {
		return fmt.Errorf("host: %s: set the link up: %w", name, err)
	}
	return nil
}

// silence keeps the host from speaking by the port itself: a bridge's stations have
// addresses, the bridge may have some, its ports have none.
func (p *Port) silence() error {
	a := actor{nl: p.nl}
	err := a.writeSetting("net/ipv6/conf/"+p.tap+"/disable_ipv6", "1")
	if errors.Is(err, fs.ErrNotExist) {
		return nil // no IPv6 here
	}
	return err
}

// report tells what somebody should know of the bridge, which was like was.
func (p *Port) report(was netlink.Link) {
	old := was.Attrs()
	p.log.Info("joined the bridge", "interface", p.tap, "bridge", p.bridge, "mtu", old.MTU)
	if old.MTU > netcfg.DefaultMTU {
		p.log.Warn("the bridge's MTU is larger than that of a tunnel: longer frames do not reach the other site",
			"bridge", p.bridge, "mtu", old.MTU, "tunnel", netcfg.DefaultMTU)
	}
	if old.RawFlags&unix.IFF_UP == 0 {
		p.log.Warn("the bridge is down and carries nothing: ip link set "+p.bridge+" up", "bridge", p.bridge)
	}
	if on, _ := readSetting("net/bridge/bridge-nf-call-iptables"); on == "1" { // as with Docker
		p.log.Info("this host's iptables filter what crosses its bridges: forwarded packets they drop do not reach the other site",
			"setting", "net.bridge.bridge-nf-call-iptables")
	}
	b, err := p.nl.LinkByIndex(old.Index)
	if err != nil {
		return // gone already: Watch tells
	}
	if now := b.Attrs().HardwareAddr; now.String() != old.HardwareAddr.String() {
		p.log.Warn("the bridge has taken another MAC address with this port; one set by hand stays (ip link set "+
			p.bridge+" address)", "bridge", p.bridge, "was", old.HardwareAddr.String(), "is", now.String())
	}
}

// Watch joins the TAP again when the bridge was removed and is back, or somebody
// took the TAP out of it. One that was made a port of something else stays there.
// It returns ctx.Err() when ctx ends, or net or system errors of listening; a bridge
// that is not there is logged, and waited for.
func (p *Port) Watch(ctx context.Context) error {
	events, err := listen()
	if err != nil {
		return fmt.Errorf("host: watch: %w", err)
	}
	defer events.Close()
	stop := context.AfterFunc(ctx, func() { events.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, os.Getpagesize())
	for {
		p.follow() // also what changed before we listened
		err := readEvent(events, buf)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("host: watch: %w", err)
		}
		select { // what happens meanwhile waits in the socket
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(rest):
		}
	}
}

// follow joins the bridge again if need be.
func (p *Port) follow() {
	t, err := p.nl.LinkByName(p.tap)
	if err != nil || t.Attrs().Index != p.index || t.Attrs().MasterIndex != 0 {
		return // the TAP is gone, which ends the tunnel, or somewhere
	}
	err = p.join(t)
	if err != nil && !p.missed {
		p.log.Warn("no longer in the bridge, and waiting for it", "interface", p.tap, "bridge", p.bridge, "cause", err)
	}
	p.missed = err != nil
}

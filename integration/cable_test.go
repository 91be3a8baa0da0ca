//go:build linux

package integration

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A cable joins client and server in place of a veth pair, and can go wrong for TCP and
// UDP apart: it loses packets, delays them, lets none through, and makes a NAT's new
// mappings. It is two TAPs, of which each hears from this process what the other says.
type cable struct {
	t    testing.TB
	tcp  path
	udp  path
	port atomic.Uint32 // what is added to the client's UDP ports beyond the NAT; 0 means no NAT

	translated atomic.Int64 // packets
	catch      atomic.Bool  // the next long datagram to the client
	caught     atomic.Pointer[[]byte]
}

// A path is what a cable does to one protocol.
type path struct {
	loss  atomic.Int64 // of a million packets
	delay atomic.Int64 // of each, one way, in nanoseconds
	cut   atomic.Bool

	passed, lost, held atomic.Int64 // packets; held: while cut
	pieces             atomic.Int64 // fragments but the first
}

func (p *path) Lose(share float64)    { p.loss.Store(int64(share * 1e6)) }
func (p *path) Delay(d time.Duration) { p.delay.Store(int64(d)) }
func (p *path) Cut(on bool)           { p.cut.Store(on) }

// Rebind has the NAT give the client's UDP ports other ones.
func (c *cable) Rebind() { c.port.Add(1000) }

// newCable joins two namespaces by interfaces named eth0 on both sides. The first is the
// client's.
func newCable(a, b *netns, addressA, addressB string) *cable {
	a.t.Helper()
	c := &cable{t: a.t}
	tapA, tapB := c.tap(a, addressA), c.tap(b, addressB)
	var g sync.WaitGroup
	g.Go(func() { c.carry(tapA, tapB, true) })
	g.Go(func() { c.carry(tapB, tapA, false) })
	a.t.Cleanup(func() {
		tapA.Close()
		tapB.Close()
		g.Wait()
	})
	return c
}

func (c *cable) tap(ns *netns, address string) *os.File {
	c.t.Helper()
	var f *os.File
	err := ns.do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		r, err := unix.NewIfreq("eth0")
		if err != nil {
			return err
		}
		r.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, r); err != nil {
			unix.Close(fd)
			return err
		}
		f = os.NewFile(uintptr(fd), "eth0")
		return nil
	})
	if err != nil {
		c.t.Fatalf("%s: make the end of a cable: %v", ns.name, err)
	}
	ns.IP("address", "add", address, "dev", "eth0")
	ns.IP("link", "set", "eth0", "up")
	return f
}

type parcel struct {
	due   time.Time
	frame []byte
}

// carry is one direction, outbound from the client or to it.
func (c *cable) carry(from, to *os.File, outbound bool) {
	queue := make(chan parcel, 20000)
	var g sync.WaitGroup
	g.Go(func() {
		for p := range queue {
			if d := time.Until(p.due); d > 0 {
				time.Sleep(d)
			}
			to.Write(p.frame)
		}
	})
	defer g.Wait()
	defer close(queue)
	buf := make([]byte, 2000)
	for {
		n, err := from.Read(buf)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(time.Millisecond)
			continue
		}
		f := append([]byte(nil), buf[:n]...)
		p := c.pathOf(f, outbound)
		if p == nil {
			to.Write(f)
			continue
		}
		switch {
		case p.cut.Load():
			p.held.Add(1)
			continue
		case rand.Int64N(1e6) < p.loss.Load():
			p.lost.Add(1)
			continue
		}
		p.passed.Add(1)
		if p == &c.udp && !outbound && len(f) > 14+28+12 && c.catch.CompareAndSwap(true, false) {
			data := f[14+28:]
			c.caught.Store(&data)
		}
		select {
		case queue <- parcel{time.Now().Add(time.Duration(p.delay.Load())), f}:
		default:
			p.lost.Add(1)
		}
	}
}

// pathOf says what f is carried as, and translates its port if there is a NAT. What is
// neither TCP nor UDP, such as ARP, passes at once.
func (c *cable) pathOf(f []byte, outbound bool) *path {
	if len(f) < 14+20+8 || binary.BigEndian.Uint16(f[12:]) != 0x0800 {
		return nil
	}
	ip := f[14:]
	switch ip[9] {
	case unix.IPPROTO_TCP:
		return &c.tcp
	case unix.IPPROTO_UDP:
		if binary.BigEndian.Uint16(ip[6:])&0x1fff == 0 { // not a later fragment
			c.translate(ip[int(ip[0]&15)*4:], outbound)
		} else {
			c.udp.pieces.Add(1)
		}
		return &c.udp
	}
	return nil
}

func (c *cable) translate(udp []byte, outbound bool) {
	add := uint16(c.port.Load())
	if add == 0 {
		return
	}
	field := udp[2:4]
	if outbound {
		field = udp[:2]
	} else {
		add = -add
	}
	binary.BigEndian.PutUint16(field, binary.BigEndian.Uint16(field)+add)
	c.translated.Add(1)
	copy(udp[6:8], []byte{0, 0}) // no checksum, which IPv4 allows
}

// newCabledWorld is newWorld with a cable.
func newCabledWorld(t testing.TB) (*world, *cable) {
	t.Helper()
	w := &world{t: t, cli: newNetns(t, "cli"), proxy: "socks5h://" + socksProxy}
	ns := newNetns(t, "srv")
	c := newCable(w.cli, ns, clientAddress+"/24", serverAddress+"/24")
	w.srv = startServer(t, ns)
	w.srv.CreateHub()
	w.lan = newLAN(t, w.srv)
	w.lan.Dnsmasq(usualLease)
	return w, c
}

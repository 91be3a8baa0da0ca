package client

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"softether-go/pkg/autoconf"
	"softether-go/pkg/dhcp"
	"softether-go/pkg/frame"
	"softether-go/pkg/netcfg"
	"softether-go/pkg/session/sessiontest"
	"softether-go/pkg/wire"
)

// As package addresses has them.
const (
	leaseTimeout = 30 * time.Second
	patience     = 4 * time.Second
)

var ownMAC = net.HardwareAddr{0x5e, 0, 0, 0, 0, 1}

// advertisement is what a router at fe80::1 says, with a prefix for addresses and a name
// server.
func advertisement() []byte {
	body := []byte{134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0}
	body = append(body, 3, 4, 64, 0xc0, 0, 0, 0x0e, 0x10, 0, 0, 0x0e, 0x10, 0, 0, 0, 0)
	body = append(body, netip.MustParseAddr("2001:db8::").AsSlice()...)
	body = append(body, 25, 3, 0, 0, 0, 0, 0x0e, 0x10)
	body = append(body, netip.MustParseAddr("2001:db8::53").AsSlice()...)
	addrs := slices.Concat(netip.MustParseAddr("fe80::1").AsSlice(), netip.MustParseAddr("ff02::1").AsSlice())
	sum := len(body) + 58
	for _, b := range [][]byte{addrs, body} {
		for i := 0; i < len(b); i += 2 {
			sum += int(binary.BigEndian.Uint16(b[i:]))
		}
	}
	binary.BigEndian.PutUint16(body[2:], ^uint16(sum%0xffff))
	f := make([]byte, frame.HeaderLen, 200)
	frame.PutHeader(f, []byte{0x33, 0x33, 0, 0, 0, 1}, []byte{0x5e, 0, 0, 0, 9, 9}, frame.TypeIPv6)
	f = append(f, 0x60, 0, 0, 0, 0, byte(len(body)), 58, 255)
	return slices.Concat(f, addrs, body)
}

// advertise lets a peer's hub have a router, and nothing else.
func advertise(_ int, p *sessiontest.Peer) {
	p.Accept()
	time.Sleep(10 * time.Millisecond) // until it is solicited
	batch, _ := wire.AppendBatch(nil, [][]byte{advertisement()})
	if _, err := p.Write(batch); err != nil {
		return
	}
	chat(p, 0)
}

// applying keeps all that is applied.
type applying struct {
	*world
	all []netcfg.Config
}

func (a *applying) Apply(ctx context.Context, c netcfg.Config) error {
	a.mu.Lock()
	a.all = append(a.all, c)
	a.mu.Unlock()
	return a.world.Apply(ctx, c)
}

// newWorld6 asks for IPv6, and for IPv4 by DHCP unless change says otherwise.
func newWorld6(t testing.TB, change func(*Config), script func(int, *sessiontest.Peer)) (*applying, *bytes.Buffer) {
	log := new(bytes.Buffer)
	a := &applying{}
	a.world = newWorld(t, func(c *Config) {
		c.Static, c.DHCP = netcfg.Config{}, &dhcp.Config{MAC: ownMAC}
		c.IPv6 = &autoconf.Config{MAC: ownMAC, Key: []byte("key")}
		c.Configurer, c.Log = a, logTo(log)
		if change != nil {
			change(c)
		}
	}, script)
	return a, log
}

// upAfter runs the client and returns when it was up, and what was applied last before the
// end.
func (a *applying) upAfter(d time.Duration) (up time.Duration, last netcfg.Config) {
	tell := a.client.cfg.OnState
	a.client.cfg.OnState = func(s State) {
		if s == Up && up == 0 {
			up = time.Since(a.begun)
		}
		tell(s)
	}
	a.run(d)
	for _, c := range a.all {
		if !c.IsZero() {
			last = c
		}
	}
	return up, last
}

func TestIPv6AloneWillDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, log := newWorld6(t, nil, advertise)
		up, last := a.upAfter(3 * time.Minute) // in which DHCP gives up several times
		if want := time.Second + patience; up < want || up > want+time.Second {
			t.Errorf("up after %v, want %v: the probe, and time for IPv4", up, want)
		}
		if last.Address.IsValid() || !last.IPv6.Usable() || len(last.DNS.Servers) != 1 {
			t.Errorf("applied %+v", last)
		}
		a.wantTrail("Dialing Configuring Up Stopped")
		if !strings.Contains(log.String(), "going on with IPv6 alone") {
			t.Errorf("not told of:\n%s", log)
		}
	})
}

func TestNeitherFamilyEndsTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := newWorld6(t, nil, func(_ int, p *sessiontest.Peer) { talk(p, 0) })
		if up, last := a.upAfter(leaseTimeout + 2*time.Second); up != 0 || last.IPv6.Usable() {
			t.Errorf("up after %v with %+v", up, last)
		}
		a.wantTrail("Dialing Configuring Waiting Stopped")
	})
}

func TestIPv6IsAddedToWhatThereIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		static := netcfg.Config{Address: static.Address, DNS: netcfg.DNS{Servers: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")}}}
		a, _ := newWorld6(t, func(c *Config) { c.DHCP, c.Static = nil, static }, advertise)
		up, last := a.upAfter(10 * time.Second)
		if up > time.Second {
			t.Errorf("up after %v: IPv4 does not wait for IPv6", up)
		}
		if !last.IPv6.Usable() || last.Address != static.Address {
			t.Errorf("applied %+v", last)
		}
		if got, want := last.DNS.Servers, []string{"10.0.0.1", "2001:db8::53", "10.0.0.2"}; len(got) != 3 || got[0].String() != want[0] || got[1].String() != want[1] || got[2].String() != want[2] {
			t.Errorf("name servers: got %v, want %v", got, want)
		}
	})
}

func TestIPv6AloneByHand(t *testing.T) {
	byHand := func(c *Config) {
		c.DHCP = nil
		c.IPv6.Static = netip.MustParsePrefix("2001:db8::5/64")
	}
	synctest.Test(t, func(t *testing.T) {
		a, _ := newWorld6(t, byHand, func(_ int, p *sessiontest.Peer) { talk(p, 0) })
		up, last := a.upAfter(10 * time.Second)
		if up < time.Second || up > 2*time.Second || !last.IPv6.Usable() {
			t.Errorf("up after %v with %+v", up, last)
		}
	})
}

// What a hostile or broken neighbour says is counted where people look.
func TestSenselessAdvertisementsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := advertisement()
		broken[len(broken)-1] ^= 1 // its checksum is wrong now
		a, _ := newWorld6(t, nil, func(_ int, p *sessiontest.Peer) {
			p.Accept()
			time.Sleep(10 * time.Millisecond)
			batch, _ := wire.AppendBatch(nil, [][]byte{broken, broken, broken})
			if _, err := p.Write(batch); err == nil {
				chat(p, 0)
			}
		})
		if n, has := a.client.IPv6(); !has || n.Ignored != 0 {
			t.Errorf("before: %+v, %t", n, has)
		}
		a.upAfter(5 * time.Second)
		if n, has := a.client.IPv6(); !has || n.Ignored != 3 {
			t.Errorf("after three of them: %+v, %t", n, has)
		}
		if n, has := a.client.DHCP(); !has || n.Ignored != 0 {
			t.Errorf("DHCP: %+v, %t", n, has)
		}
	})
	w := newWorld(t, nil, nil)
	if _, has := w.client.IPv6(); has {
		t.Error("counters of IPv6, which is not asked for")
	}
}

package autoconf

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"softether-go/pkg/frame"
	"softether-go/pkg/frame/frametest"
	"softether-go/pkg/inet"
)

// solicit is a question of a neighbour, who says where it is.
func solicit(from mac, src, target netip.Addr) []byte {
	b := target.As16()
	m := append([]byte{neighborSolicitation, 0, 0, 0, 0, 0, 0, 0}, b[:]...)
	m = append(append(m, 1, 1), from[:]...)
	group := inet.SolicitedNode(target)
	return icmpFrame(from, inet.GroupMAC(group), src, group, m)
}

// Until whoever is behind answers for our address, we do: a DHCPv6 server has to find us.
func TestQuestionsForOurAddressAreAnsweredUntilSomebodyElseDoes(t *testing.T) {
	run(t, nil, nil, func(t *testing.T, n *lan) {
		own := n.client.opaque(linkLocal, 0)
		time.Sleep(latency)
		n.wantTrail("PROBE fe80::*, RS from ::")
		n.hears(solicit(routerMAC, routerLL, own))
		n.wantTrail("") // it is not ours yet
		time.Sleep(probeTime)
		n.change(func() { n.notes = nil })
		n.hears(solicit(routerMAC, routerLL, own))
		n.wantTrail("NA fe80::* to fe80::1, flags 0x60")
		n.hears(solicit(routerMAC, routerLL, routerLL))
		n.wantTrail("")
		n.client.Yield()
		n.hears(solicit(routerMAC, routerLL, own))
		n.wantTrail("")
	})
}

// All but DHCPv6 replies to us goes on as it came, whether of interest to us or not.
func TestEverythingElsePasses(t *testing.T) {
	reply := serverFrame(netip.MustParseAddr("fe80::5"), []byte{7, 1, 2, 3})
	other := slices.Clone(reply)
	copy(other, otherMAC[:])
	port := slices.Clone(reply)
	port[14+40+3]++
	pass := [][]byte{
		aRouter().advert(), defense(routerLL), solicit(routerMAC, routerLL, secondLL), other, port,
		{}, make([]byte, 14), make([]byte, 60), frametest.Frame(ourMAC[:], otherMAC[:], frame.TypeIPv4, make([]byte, 40)), reply[:14+40+2], aRouter().advert()[:60],
	}
	for _, f := range [][]byte{aRouter().advert(), reply} {
		for n := range f {
			if c := f[:n]; len(c) < len(f) {
				pass = append(pass, c)
			}
		}
	}
	c := New(Config{MAC: netMAC(ourMAC)})
	var passed frametest.Pipe
	f := c.Filter(&passed)
	for _, batch := range [][][]byte{pass, {reply}, {reply, pass[0], reply, reply, pass[1]}} {
		if err := f.WriteFrames(batch); err != nil {
			t.Fatal(err)
		}
	}
	want := append(slices.Clone(pass), pass[0], pass[1])
	got := passed.Received(t.Context(), len(want))
	if !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("%d frames passed, want %d, or others", len(got), len(want))
	}
	if got := c.Stats().Ignored; got != 4 {
		t.Errorf("replies that nobody waits for: counted %d, want 4", got)
	}
}

func TestPassingDoesNotAllocate(t *testing.T) {
	c := New(Config{MAC: netMAC(ourMAC)})
	watched := []netip.Addr{routerLL}
	c.watched.Store(&watched)
	f := c.Filter(frame.WriterFunc(func([][]byte) error { return nil }))
	data := make([]byte, 1514)
	frame.PutHeader(data, ourMAC[:], routerMAC[:], frame.TypeIPv6)
	data[14], data[20] = 0x60, 6
	batch := [][]byte{data, solicit(routerMAC, routerLL, secondLL), defense(secondLL)}
	if n := testing.AllocsPerRun(100, func() { _ = f.WriteFrames(batch) }); n > 0 {
		t.Errorf("%v allocations for a batch", n)
	}
}

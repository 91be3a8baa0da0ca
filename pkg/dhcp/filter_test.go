package dhcp

import (
	"bytes"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"softether-go/pkg/frame"
	"softether-go/pkg/frame/frametest"
)

var anyPath = path{srcMAC: serverMAC, dstMAC: broadcastMAC, src: serverIP, dst: broadcastIP}

// offerFrame is an OFFER for x, changed by edit if that is not nil.
func offerFrame(x xid, p path, edit func(m *dhcpv4.DHCPv4)) []byte {
	s := newServer()
	s.edit = edit
	return serverFrame(p, s.reply("DISCOVER", &dhcpv4.DHCPv4{TransactionID: x, HWType: 1, ClientHWAddr: ourMAC[:]}).ToBytes())
}

// tcpFrame is a full-size frame as downloads are made of.
func tcpFrame() []byte {
	f := appendDatagram(nil, anyPath, make([]byte, 1472))
	f[frame.HeaderLen+9] = 6
	return f
}

func TestFilterTakesOutOnlyRepliesToUs(t *testing.T) {
	toOther := anyPath
	toOther.dstMAC = otherMAC
	fromGroup := anyPath
	fromGroup.srcMAC = broadcastMAC
	toUs := anyPath
	toUs.dstMAC, toUs.dst = ourMAC, leasedIP
	ours := func(edit func([]byte)) []byte {
		f := offerFrame(xid{1, 2, 3, 4}, toUs, nil)
		edit(f)
		return f
	}
	for _, row := range []struct {
		name  string
		frame []byte
		taken bool
	}{
		{"to everybody", offerFrame(xid{1, 2, 3, 4}, anyPath, nil), true},
		{"to our MAC", offerFrame(xid{1, 2, 3, 4}, toUs, nil), true},
		{"in another transaction", offerFrame(xid{9, 9, 9, 9}, anyPath, nil), true},
		{"from a broadcast address", offerFrame(xid{1, 2, 3, 4}, fromGroup, nil), true},
		{"to another MAC", offerFrame(xid{1, 2, 3, 4}, toOther, nil), false},
		{"for another client", offerFrame(xid{1, 2, 3, 4}, anyPath, func(m *dhcpv4.DHCPv4) { m.ClientHWAddr = otherMAC[:] }), false},
		{"a request, not a reply", offerFrame(xid{1, 2, 3, 4}, anyPath, func(m *dhcpv4.DHCPv4) { m.OpCode = dhcpv4.OpcodeBootRequest }), false},
		{"to another port", ours(func(f []byte) { f[37] = 69; f[41]-- }), false},
		{"with a wrong checksum", ours(func(f []byte) { f[60] ^= 1 }), false},
		{"in a VLAN", ours(func(f []byte) { f[12], f[13] = 0x81, 0 }), false},
		{"cut short", ours(func([]byte) {})[:200], false},
		{"a bare datagram", serverFrame(anyPath, nil), false},
		{"nothing", nil, false},
		{"ARP", arpAnswer(otherMAC, leasedIP), false},
		{"TCP", tcpFrame(), false},
	} {
		t.Run(row.name, func(t *testing.T) {
			var next frametest.Pipe
			c := New(Config{MAC: ourMAC[:]})
			c.awaited.Store(awaits(xid{1, 2, 3, 4}))
			if err := c.Filter(&next).WriteFrames([][]byte{row.frame}); err != nil {
				t.Fatal(err)
			}
			if taken := len(next.Received(t.Context(), 0)) == 0; taken != row.taken {
				t.Errorf("taken %v, want %v", taken, row.taken)
			}
			if queued, ignored := len(c.replies), int(c.ignored.Load()); row.taken != (queued+ignored == 1) {
				t.Errorf("taken %v, queued %d, ignored %d", row.taken, queued, ignored)
			}
		})
	}
}

func TestBatchWithoutRepliesIsPassedAsItIs(t *testing.T) {
	batch := [][]byte{tcpFrame(), arpAnswer(otherMAC, leasedIP), {1}, nil}
	var got [][]byte
	f := New(Config{MAC: ourMAC[:]}).Filter(frame.WriterFunc(func(frames [][]byte) error {
		got = frames
		return nil
	}))
	for _, b := range [][][]byte{batch, {}, nil} {
		if err := f.WriteFrames(b); err != nil {
			t.Fatal(err)
		}
		if len(got) != len(b) || len(b) > 0 && &got[0] != &b[0] {
			t.Errorf("batch of %d arrived as another slice of %d", len(b), len(got))
		}
	}
}

func TestBatchAroundRepliesKeepsItsOrder(t *testing.T) {
	var next frametest.Pipe
	c := New(Config{MAC: ourMAC[:]})
	c.awaited.Store(awaits(xid{1}))
	offer := offerFrame(xid{1}, anyPath, nil)
	batch := [][]byte{offer, {1}, {2}, offer, offer, {3}, offer}
	if err := c.Filter(&next).WriteFrames(batch); err != nil {
		t.Fatal(err)
	}
	if got, want := bytes.Join(next.Received(t.Context(), 0), nil), []byte{1, 2, 3}; !bytes.Equal(got, want) {
		t.Errorf("passed % x, want % x", got, want)
	}
	if got := len(c.replies); got != 4 {
		t.Errorf("%d replies heard, want 4", got)
	}
}

func TestFilterFailsWithNext(t *testing.T) {
	gone := errors.New("stack is gone")
	c := New(Config{MAC: ourMAC[:]})
	offer := offerFrame(xid{1}, anyPath, nil)
	for name, batch := range map[string][][]byte{
		"before a reply": {{1}, offer}, "after a reply": {offer, {1}}, "without": {{1}},
	} {
		if err := c.Filter(frametest.FailAfter(0, nil, gone)).WriteFrames(batch); !errors.Is(err, gone) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := c.Filter(frametest.FailAfter(0, nil, gone)).WriteFrames([][]byte{offer}); err != nil {
		t.Errorf("nothing to pass on: %v", err)
	}
}

func TestReplyIsCopiedOut(t *testing.T) {
	c := New(Config{MAC: ourMAC[:]})
	c.awaited.Store(awaits(xid{1}))
	f := offerFrame(xid{1}, anyPath, nil)
	if err := c.Filter(&frametest.Pipe{}).WriteFrames([][]byte{f}); err != nil {
		t.Fatal(err)
	}
	clear(f) // the lender reuses its buffer
	a, err := judge(&exchange{state: selecting, xid: xid{1}}, <-c.replies)
	if err != nil || a.lease.Address.Addr() != leasedIP {
		t.Errorf("got %v, %v", a.lease.Address, err)
	}
}

func TestReplyStormIsBoundedAndSurvived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		n := newLAN(t, s)
		n.onFrame = func(f []byte) {
			if frame.EtherType(f) != frame.TypeIPv4 {
				return
			}
			m, _ := n.parseSent(f)
			if m.MessageType() != dhcpv4.MessageTypeDiscover || len(n.times) > 1 {
				return
			}
			// The storm knows the transaction, and arrives before the offer.
			junk := offerFrame(m.TransactionID, anyPath, func(m *dhcpv4.DHCPv4) { m.YourIPAddr = nil })
			batch := make([][]byte, 10000)
			for i := range batch {
				batch[i] = junk
			}
			n.deliver(latency/2, batch...)
		}
		if got := n.mustAcquire(); got.Address.Addr() != leasedIP {
			t.Errorf("got %v", got.Address)
		}
		st := n.client.Stats()
		if st.Ignored+st.Overflow != 10000 || st.Overflow == 0 {
			t.Errorf("ignored %d, overflow %d, want 10000 together", st.Ignored, st.Overflow)
		}
	})
}

func TestNothingIsQueuedWhileNothingIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newLAN(t, newServer())
		n.mustAcquire()
		n.deliver(0, offerFrame(n.sent[0].TransactionID, anyPath, nil))
		time.Sleep(time.Second)
		if got := len(n.client.replies); got != 0 {
			t.Errorf("%d replies queued", got)
		}
	})
}

func TestFilterDoesNotAllocate(t *testing.T) {
	c := New(Config{MAC: ourMAC[:]})
	c.probed.Store(ipKey(leasedIP))
	f := c.Filter(frame.WriterFunc(func([][]byte) error { return nil }))
	toOther := anyPath
	toOther.dstMAC = otherMAC
	batch := [][]byte{
		tcpFrame(), appendDatagram(nil, anyPath, make([]byte, 100)),
		arpProbe(otherMAC, leasedIP), offerFrame(xid{1}, toOther, nil),
		offerFrame(xid{1}, anyPath, nil), // nothing is awaited, so it is dropped
	}
	if got := testing.AllocsPerRun(100, func() {
		if err := f.WriteFrames(batch); err != nil {
			t.Fatal(err)
		}
	}); got != 0 {
		t.Errorf("%v allocations a batch, want 0", got)
	}
}

func TestLeftoversOfAnEarlierExchangeAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newLAN(t, newServer())
		for range replyQueue {
			n.client.replies <- reply{from: serverMAC, src: serverIP, payload: make([]byte, 300)}
		}
		n.mustAcquire()
		if got := n.client.Stats(); got != (Stats{}) {
			t.Errorf("counted %+v, want nothing", got)
		}
	})
}

func BenchmarkFilter(b *testing.B) {
	batch := make([][]byte, 64)
	for i := range batch {
		batch[i] = tcpFrame()
	}
	f := New(Config{MAC: ourMAC[:]}).Filter(frame.WriterFunc(func([][]byte) error { return nil }))
	b.SetBytes(int64(len(batch) * len(batch[0])))
	b.ReportAllocs()
	for b.Loop() {
		if err := f.WriteFrames(batch); err != nil {
			b.Fatal(err)
		}
	}
}

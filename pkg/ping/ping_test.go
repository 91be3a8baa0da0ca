package ping

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"softether-go/pkg/inet"
)

var (
	host    = netip.MustParseAddr("10.0.0.9")
	routers = []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("10.2.0.1")}
)

// network is one in memory, whose hosts answer after a while.
type network struct {
	answer func(msg []byte, hops int, mayFragment bool) []reply
	in     chan reply

	mu       sync.Mutex
	deadline chan struct{}
	failed   error // of Send
	sent     int
}

// reply is a message that comes after a while.
type reply struct {
	after time.Duration
	from  netip.Addr
	msg   []byte
}

func newNetwork(answer func(msg []byte, hops int, mayFragment bool) []reply) *network {
	return &network{answer: answer, in: make(chan reply, 1000), deadline: make(chan struct{})}
}

func (n *network) Send(msg []byte, _ netip.Addr, hops int, mayFragment bool) error {
	n.mu.Lock()
	n.sent++
	err := n.failed
	n.mu.Unlock()
	if err != nil {
		return err
	}
	for _, r := range n.answer(msg, hops, mayFragment) {
		time.AfterFunc(r.after, func() { n.in <- r })
	}
	return nil
}

func (n *network) Receive(b []byte) (int, netip.Addr, int, error) {
	select {
	case r := <-n.in:
		return copy(b, r.msg), r.from, 60, nil
	case <-n.deadline:
		return 0, netip.Addr{}, 0, os.ErrDeadlineExceeded
	}
}

func (n *network) SetReadDeadline(time.Time) error {
	close(n.deadline)
	return nil
}

// echoOf answers a request.
func echoOf(msg []byte) []byte {
	b := slices.Clone(msg)
	b[0] = echoReply4
	return b
}

// errorAbout makes an ICMP error about a request, in a packet with options.
func errorAbout(msg []byte, kind, code byte, mtu uint16) []byte {
	b := binary.BigEndian.AppendUint16([]byte{kind, code, 0, 0, 0, 0}, mtu)
	ip := make([]byte, 24)
	ip[0], ip[9] = 0x46, 1
	return append(append(b, ip...), msg[:8]...)
}

func TestPingReportsAndCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := 0
		n := newNetwork(func(msg []byte, hops int, mayFragment bool) []reply {
			i++
			ms := time.Duration(i) * time.Millisecond
			switch i {
			case 2:
				return nil // lost
			case 3:
				return []reply{{ms, host, echoOf(msg)}, {2 * ms, host, echoOf(msg)}}
			case 4:
				return []reply{{ms, routers[0], errorAbout(msg, unreachable4, 1, 0)}}
			case 5: // later than the next
				return []reply{{1500 * time.Millisecond, host, echoOf(msg)}}
			}
			other := slices.Clone(msg)
			other[4]++
			return []reply{{0, host, echoOf(other)}, {0, host, msg}, {0, host, nil}, {ms, host, echoOf(msg)}}
		})
		var got []string
		st, err := Run(t.Context(), n, Config{To: host, Count: 6, Size: 56}, func(a Answer) {
			got = append(got, fmt.Sprintf("%d %v %v %v %v", a.Seq, a.From, a.Time, a.Again, a.Error.Kind))
		})
		want := []string{
			"1 10.0.0.9 1ms false ", "3 10.0.0.9 3ms false ", "3 10.0.0.9 6ms true ",
			"4 10.0.0.1 4ms false Destination Host Unreachable", "6 10.0.0.9 6ms false ", "5 10.0.0.9 1.5s false ",
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("got %q, %v; want %q", got, err, want)
		}
		if st.Sent != 6 || st.Received != 4 || st.Again != 1 || st.Errors != 1 || st.Min != time.Millisecond || st.Max != 1500*time.Millisecond ||
			st.Avg != 377500*time.Microsecond || st.Took != 10*time.Second {
			t.Errorf("statistics: %+v", st)
		}
	})
}

func TestPingEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 70*time.Hour-time.Second/2) // more requests than their numbers have values
		defer cancel()
		last := 0
		n := newNetwork(func(msg []byte, _ int, _ bool) []reply { return []reply{{time.Millisecond, host, echoOf(msg)}} })
		st, err := Run(ctx, n, Config{To: host}, func(a Answer) { last = a.Seq })
		if err != nil || st.Sent != 70*3600 || st.Received != st.Sent || last != st.Sent {
			t.Errorf("got %+v, %v; the last was %d", st, err, last)
		}
	})
}

func TestWhatCannotBeSentIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(nil)
		n.failed = errors.New("message too long")
		if _, err := Run(t.Context(), n, Config{To: host}, nil); !errors.Is(err, n.failed) {
			t.Errorf("Run: %v", err)
		}
		n = newNetwork(nil)
		n.failed = errors.New("no route")
		if _, err := Trace(t.Context(), n, TraceConfig{To: host}, nil); !errors.Is(err, n.failed) {
			t.Errorf("Trace: %v", err)
		}
	})
}

// way is a network of routers before the host; the second says nothing.
func way(last func(msg []byte) []byte) *network {
	return newNetwork(func(msg []byte, hops int, _ bool) []reply {
		ms := time.Duration(hops) * time.Millisecond
		switch {
		case hops == 2:
			return nil
		case hops <= len(routers):
			return []reply{{ms, routers[hops-1], errorAbout(msg, exceeded4, 0, 0)}}
		}
		return []reply{{ms, host, last(msg)}}
	})
}

func trace(t *testing.T, n *network, cfg TraceConfig) (lines []string, arrived bool) {
	t.Helper()
	cfg.To = host
	arrived, err := Trace(t.Context(), n, cfg, func(h Hop) {
		line := fmt.Sprint(h.Number)
		for _, a := range h.Answers {
			line += fmt.Sprintf(" %v %v%s", a.From, a.Time, a.Error.Kind.Mark())
		}
		lines = append(lines, line)
	})
	if err != nil {
		t.Error(err)
	}
	return lines, arrived
}

func TestTraceShowsTheWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		n := way(echoOf)
		got, arrived := trace(t, n, TraceConfig{})
		three := func(s string) string { return strings.Repeat(" "+s, 3) }
		want := []string{"1" + three("10.0.0.1 1ms"), "2", "3" + three("10.2.0.1 3ms"), "4" + three("10.0.0.9 4ms")}
		if !slices.Equal(got, want) || !arrived {
			t.Errorf("got %q (%v), want %q", got, arrived, want)
		}
		if d := time.Since(begun); d != 3*time.Second+0 {
			t.Errorf("took %v, want the patience with the silent hop alone", d)
		}
		if n.sent > (len(routers)+1+ahead)*probes {
			t.Errorf("sent %d requests, far beyond the host", n.sent)
		}
	})
}

func TestTraceEndsWhereItIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got, arrived := trace(t, way(func(msg []byte) []byte { return errorAbout(msg, unreachable4, 13, 0) }), TraceConfig{})
		if arrived || len(got) != 4 || !strings.Contains(got[3], "!X") {
			t.Errorf("got %q (%v)", got, arrived)
		}
		got, arrived = trace(t, newNetwork(func([]byte, int, bool) []reply { return nil }), TraceConfig{MaxHops: 3})
		if arrived || !slices.Equal(got, []string{"1", "2", "3"}) {
			t.Errorf("nobody answers: got %q (%v)", got, arrived)
		}
	})
}

func TestErrorsSayWhatTheyAreAbout(t *testing.T) {
	v4 := appendEcho(nil, false, 0x1234, 7, 3)
	v6 := appendEcho(nil, true, 0x1234, 7, 3)
	if inet.Checksum(v4) != 0 {
		t.Errorf("the checksum of % x is wrong", v4)
	}
	about6 := func(kind, code byte, rest uint32) []byte {
		b := binary.BigEndian.AppendUint32([]byte{kind, code, 0, 0}, rest)
		ip := make([]byte, 40)
		ip[0], ip[6] = 0x60, 58
		return append(append(b, ip...), v6...)
	}
	for _, row := range []struct {
		name string
		v6   bool
		msg  []byte
		want Error
	}{
		{"too big", false, errorAbout(v4, unreachable4, 4, 1300), Error{TooBig, 1300}},
		{"network", false, errorAbout(v4, unreachable4, 0, 0), Error{Kind: NetUnreachable}},
		{"protocol", false, errorAbout(v4, unreachable4, 2, 0), Error{Kind: ProtocolUnreachable}},
		{"port", false, errorAbout(v4, unreachable4, 3, 0), Error{Kind: PortUnreachable}},
		{"filtered", false, errorAbout(v4, unreachable4, 10, 0), Error{Kind: Prohibited}},
		{"something new", false, errorAbout(v4, unreachable4, 99, 0), Error{Kind: Other}},
		{"a parameter", false, errorAbout(v4, parameter4, 0, 0), Error{Kind: Other}},
		{"expired", false, errorAbout(v4, exceeded4, 0, 0), Error{Kind: Expired}},
		{"too big, IPv6", true, about6(tooBig6, 0, 1280), Error{TooBig, 1280}},
		{"no route, IPv6", true, about6(unreachable6, 0, 0), Error{Kind: NetUnreachable}},
		{"filtered, IPv6", true, about6(unreachable6, 1, 0), Error{Kind: Prohibited}},
		{"address, IPv6", true, about6(unreachable6, 3, 0), Error{Kind: HostUnreachable}},
		{"port, IPv6", true, about6(unreachable6, 4, 0), Error{Kind: PortUnreachable}},
		{"expired, IPv6", true, about6(exceeded6, 0, 0), Error{Kind: Expired}},
	} {
		n, ok := parse(row.msg, row.v6)
		if !ok || n.id != 0x1234 || n.seq != 7 || n.error != row.want {
			t.Errorf("%s: got %+v, %v", row.name, n, ok)
		}
		for i := range len(row.msg) - 11 { // without the request's number
			if n, ok := parse(row.msg[:i], row.v6); ok && n.seq == 7 {
				t.Errorf("%s: %d bytes were enough", row.name, i)
			}
		}
	}
}

func FuzzMessages(f *testing.F) {
	v4 := appendEcho(nil, false, 1, 2, 8)
	f.Add(echoOf(v4), false)
	f.Add(errorAbout(v4, exceeded4, 0, 0), false)
	f.Add(appendEcho(nil, true, 1, 2, 8), true)
	f.Fuzz(func(t *testing.T, b []byte, v6 bool) {
		if n, ok := parse(b, v6); ok && len(b) < headerLen {
			t.Errorf("%x: %+v", b, n)
		}
	})
}

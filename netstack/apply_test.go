package netstack

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"softether-go/pkg/frame"
	"softether-go/pkg/frame/frametest"
	"softether-go/pkg/netcfg"
)

func config(address, gateway string, routes ...string) netcfg.Config {
	c := netcfg.Config{Address: netip.MustParsePrefix(address)}
	if gateway != "" {
		c.Gateway = netip.MustParseAddr(gateway)
	}
	for _, r := range routes {
		dest, via, _ := strings.Cut(r, " via ")
		route := netcfg.Route{Dest: netip.MustParsePrefix(dest)}
		if via != "" {
			route.Via = netip.MustParseAddr(via)
		}
		c.Routes = append(c.Routes, route)
	}
	return c
}

// firstHop returns which address s asks for by ARP in order to reach dst, or the
// error of a dial that finds no way.
func firstHop(t *testing.T, s *Stack, wire *frametest.Pipe, dst string) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		_, err := s.DialContext(ctx, "tcp", dst+":80")
		failed <- err
	})
	asked := make(chan string, 1)
	wg.Go(func() {
		for n := 1; ctx.Err() == nil; n++ {
			f := wire.Received(ctx, n)
			if len(f) < n {
				return
			}
			if arp := frame.Payload(f[n-1]); !bytes.Equal(arp[14:18], arp[24:28]) { // no announcement
				asked <- netip.AddrFrom4([4]byte(arp[24:28])).String()
				return
			}
		}
	})
	select {
	case hop := <-asked:
		return hop
	case err := <-failed:
		if errors.Is(err, syscall.ENETUNREACH) {
			return "unreachable"
		}
		return err.Error()
	}
}

func TestRoutes(t *testing.T) {
	full := config("10.0.0.5/24", "10.0.0.1", "192.168.0.0/16 via 10.0.0.2", "192.168.7.0/24 via 10.0.0.3", "172.16.0.0/12", "100.64.0.0/10 via 0.0.0.0")
	for _, row := range []struct {
		name string
		cfg  netcfg.Config
		dst  string
		hop  string
	}{
		{"on the link", full, "10.0.0.77", "10.0.0.77"},
		{"by default", full, "8.8.8.8", "10.0.0.1"},
		{"by a classless route", full, "192.168.1.1", "10.0.0.2"},
		{"by the longer prefix", full, "192.168.7.1", "10.0.0.3"},
		{"onto the link, no router named", full, "172.20.0.1", "172.20.0.1"},
		{"onto the link, router 0.0.0.0", full, "100.64.0.1", "100.64.0.1"},
		{"no gateway", config("10.0.0.5/24", ""), "8.8.8.8", "unreachable"},
		{"gateway 0.0.0.0 is none", config("10.0.0.5/24", "0.0.0.0"), "8.8.8.8", "unreachable"},
		{"a host route with a gateway off the link", config("10.0.0.5/32", "192.0.2.1"), "8.8.8.8", "192.0.2.1"},
		{"a host route, to the gateway itself", config("10.0.0.5/32", "192.0.2.1"), "192.0.2.1", "192.0.2.1"},
		{"a default route among the classless beats the gateway", config("10.0.0.5/24", "10.0.0.1", "0.0.0.0/0 via 10.0.0.9"), "8.8.8.8", "10.0.0.9"},
		{"a route with host bits", config("10.0.0.5/24", "", "10.9.9.9/8 via 10.0.0.4"), "10.1.1.1", "10.0.0.4"},
		{"a route of the other family is ignored", config("10.0.0.5/24", "", "fd00::/8 via fd00::1"), "10.0.0.6", "10.0.0.6"},
		{"an invalid route is ignored", netcfg.Config{Address: netip.MustParsePrefix("10.0.0.5/24"), Routes: []netcfg.Route{{}}}, "10.0.0.6", "10.0.0.6"},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := newStack(t, macA)
			apply(t, s, row.cfg)
			if got := firstHop(t, s, capture(t, s), row.dst); got != row.hop {
				t.Errorf("first hop to %s: got %s, want %s", row.dst, got, row.hop)
			}
		})
	}
}

func TestApplyReplacesRoutes(t *testing.T) {
	s := newStack(t, macA)
	apply(t, s, config("10.0.0.5/24", "10.0.0.1", "192.168.0.0/16 via 10.0.0.2"))
	apply(t, s, config("10.0.0.5/24", "", "192.168.0.0/16 via 10.0.0.3"))
	if got := firstHop(t, s, capture(t, s), "192.168.1.1"); got != "10.0.0.3" {
		t.Errorf("first hop: got %s, want the new router", got)
	}
	if _, err := s.DialContext(t.Context(), "tcp", "8.8.8.8:80"); !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("by the gateway that is gone: got %v, want ENETUNREACH", err)
	}
}

func TestApplyRefusesWhatIsNoHostAddress(t *testing.T) {
	s := newStack(t, macA)
	for _, address := range []string{"0.0.0.0/0", "127.0.0.1/8", "224.0.0.1/4"} {
		if err := s.Apply(t.Context(), prefix(address)); err == nil {
			t.Errorf("%s was accepted", address)
		}
	}
	if _, err := s.DialContext(t.Context(), "tcp", "10.0.0.2:80"); !errors.Is(err, ErrNoAddress) {
		t.Errorf("dial afterwards: got %v, want ErrNoAddress", err)
	}
	apply(t, s, prefix("10.0.0.1/24"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Apply(ctx, netcfg.Config{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Apply with a context that is over: got %v", err)
	}
}

// alive proves that a and b still carry bytes to each other.
func alive(t *testing.T, a, b io.ReadWriter) {
	t.Helper()
	for _, way := range [][2]io.ReadWriter{{a, b}, {b, a}} {
		if _, err := way[0].Write([]byte("ping")); err != nil {
			t.Fatalf("write: %v", err)
		}
		buf := make([]byte, 4)
		if _, err := io.ReadFull(way[1], buf); err != nil {
			t.Fatalf("read: %v", err)
		}
	}
}

func TestConnectionsSurviveAnApplyWithTheSameAddress(t *testing.T) {
	same := config("10.0.0.1/24", "10.0.0.254")
	longer := config("10.0.0.1/8", "10.0.0.254")
	routed := config("10.0.0.1/24", "10.0.0.253", "192.168.0.0/16 via 10.0.0.2")
	routed.DNS.Servers = []netip.Addr{netip.MustParseAddr("10.0.0.53")}
	narrow := same
	narrow.MTU = 1300
	for name, c := range map[string]netcfg.Config{
		"the same": same, "another prefix length": longer, "other routes and servers": routed, "a smaller MTU": narrow,
	} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t)
			apply(t, a, same)
			client, server := connected(t, a, b)
			back := listen(t, a, "10.0.0.1:8080")
			alive(t, client, server)
			apply(t, a, c)
			alive(t, client, server)
			transfer(t, server, client, 1<<20)
			in := dial(t, b, "tcp", "10.0.0.1:8080")
			alive(t, in, accept(t, back))
		})
	}
}

func TestAddressChangeEndsWhatIsBoundToTheOldOne(t *testing.T) {
	for name, next := range map[string]netcfg.Config{
		"another address": prefix("10.0.0.3/24"), "no address": {},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t)
			any := listen(t, a, "0.0.0.0:8080")
			bound := listen(t, a, "10.0.0.1:8081")
			client, _ := connected(t, a, b)
			_, server := connected(t, a, b) // idle, with an open window
			udp := dial(t, a, "udp", "10.0.0.2:7")
			ends := make(chan error, 4)
			var wg sync.WaitGroup
			wg.Go(func() { _, err := client.Read(make([]byte, 1)); ends <- err })
			wg.Go(func() { _, err := io.Copy(client, zeros{}); ends <- err }) // nobody reads: it blocks
			wg.Go(func() { _, err := udp.Read(make([]byte, 1)); ends <- err })
			wg.Go(func() { _, err := bound.Accept(); ends <- err })
			for a.Stats().OutboundFrames < 100 {
				time.Sleep(time.Millisecond)
			}
			apply(t, a, next)
			wg.Wait()
			for range cap(ends) {
				if err := <-ends; !errors.Is(err, ErrAddressChanged) || !errors.Is(err, syscall.ECONNABORTED) {
					t.Errorf("blocked operation: got %v, want ErrAddressChanged", err)
				}
			}
			if n := len(a.ns.RegisteredEndpoints()); n != 1 {
				t.Errorf("endpoints left: got %d, want only the listener on all addresses", n)
			}
			// The peer is told, too: its data ends in a reset, not in silence.
			_ = server.SetDeadline(time.Now().Add(10 * time.Second))
			if _, err := io.Copy(io.Discard, server); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("peer: got %v, want ECONNRESET", err)
			}
			if !next.Address.IsValid() {
				return
			}
			in := dial(t, b, "tcp", "10.0.0.3:8080")
			alive(t, in, accept(t, any))
		})
	}
}

func TestDialUnderWayEndsWithItsAddress(t *testing.T) {
	s := newStack(t, macA)
	apply(t, s, prefix("10.0.0.1/24"))
	wire := capture(t, s)
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := s.DialContext(t.Context(), "tcp", "10.0.0.2:80")
		if !errors.Is(err, ErrAddressChanged) {
			t.Errorf("dial: got %v, want ErrAddressChanged", err)
		}
	})
	received(t, wire, 2) // the announcement and the question for 10.0.0.2
	apply(t, s, prefix("10.0.0.3/24"))
	wg.Wait()
}

// The lease's MTU must reach the peer as our MSS, and bind what we send.
func TestMTU(t *testing.T) {
	for _, row := range []struct {
		name    string
		mtu     int
		mss     uint16
		longest int // frame allowed
	}{
		{"default", 0, 1460, 1514},
		{"smaller", 1300, 1260, 1314},
		{"the largest the tunnel carries", 1586, 1546, 1600},
		{"larger than the tunnel carries", 9000, 1546, 1600},
		{"too small to be meant", 68, 536, 590},
	} {
		t.Run(row.name, func(t *testing.T) {
			a, b := newStack(t, macA), newStack(t, macB)
			c := prefix("10.0.0.1/24")
			c.MTU = row.mtu
			apply(t, a, c)
			c = prefix("10.0.0.2/24")
			c.MTU = 1586
			apply(t, b, c)
			w := &watch{Stack: a}
			join(t, w, b)
			client, server := connected(t, a, b)
			transfer(t, server, client, 1<<20)
			transfer(t, client, server, 1<<20)
			w.mu.Lock()
			defer w.mu.Unlock()
			// gVisor leaves room for the largest TCP options in every segment.
			fits := func(n int) bool { return row.longest-40 <= n && n <= row.longest }
			if w.mss != row.mss || !fits(w.out) || !fits(w.in) {
				t.Errorf("got MSS %d, longest frame out %d, in %d; want %d, %d", w.mss, w.out, w.in, row.mss, row.longest)
			}
		})
	}
}

// watch notes the MSS its stack offers and the longest frames each way.
type watch struct {
	*Stack
	mu      sync.Mutex
	mss     uint16
	out, in int
}

func (w *watch) WriteFrames(frames [][]byte) error {
	w.mu.Lock()
	for _, f := range frames {
		w.in = max(w.in, len(f))
	}
	w.mu.Unlock()
	return w.Stack.WriteFrames(frames)
}

func (w *watch) Run(ctx context.Context, dst frame.Writer) error {
	return w.Stack.Run(ctx, frame.WriterFunc(func(frames [][]byte) error {
		w.mu.Lock()
		for _, f := range frames {
			w.out = max(w.out, len(f))
			if len(f) > 58 && frame.EtherType(f) == frame.TypeIPv4 && f[23] == 6 && f[47]&2 != 0 && f[54] == 2 {
				w.mss = binary.BigEndian.Uint16(f[56:])
			}
		}
		w.mu.Unlock()
		return dst.WriteFrames(frames)
	}))
}

func TestAnnounceForgetsNeighbors(t *testing.T) {
	a, b := pair(t)
	client, server := connected(t, a, b)
	alive(t, client, server)
	if err := a.Announce(); err != nil {
		t.Fatal(err)
	}
	entries, terr := a.ns.Neighbors(nicID, protocolOf(netip.MustParseAddr("10.0.0.1")))
	if terr != nil {
		t.Fatal(terr)
	}
	if diff := cmp.Diff(0, len(entries)); diff != "" {
		t.Errorf("neighbours known after Announce (-want +got):\n%s", diff)
	}
	alive(t, client, server)
}

package udpaccel

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"softether-go/pkg/wire"
)

func TestFramesTravelBothWays(t *testing.T) {
	for _, v := range versions {
		for _, compress := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				c, s := sides(t, newSea(), v, func(c *Config) { c.Compress = compress })
				time.Sleep(2 * time.Second)
				out := [][]byte{testFrame(1, 100), testFrame(2, 60), testFrame(3, 1300)}
				if err := c.WriteFrames(append(slices.Clone(out), make([]byte, 13), make([]byte, 1500))); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(out, s.got.Received(t.Context(), 3)); diff != "" {
					t.Errorf("outbound (-want +got):\n%s", diff)
				}
				s.WriteFrames(out[:1])
				if diff := cmp.Diff(out[:1], c.got.Received(t.Context(), 1)); diff != "" {
					t.Errorf("inbound (-want +got):\n%s", diff)
				}
				if got := c.Stats(); got.OutFrames != 3 || got.OutUnfit != 2 || got.InFrames != 1 || got.OutBytes != 114+74+1314 {
					t.Errorf("%v: statistics: %+v", v, got)
				}
			})
		}
	}
}

// Proves the protocol's rules: usable after ten seconds alive, dead after a silence, and
// ten seconds more after that.
func TestWhenThePathIsUsable(t *testing.T) {
	for _, row := range []struct {
		fast    bool
		silence time.Duration
	}{{true, 2100 * time.Millisecond}, {false, 9 * time.Second}} {
		synctest.Test(t, func(t *testing.T) {
			sea := newSea()
			cut := false
			sea.drop = func(_, _ netip.AddrPort, _ []byte) bool { return cut }
			c, s := sides(t, sea, V2, func(c *Config) { c.Fast = row.fast })
			time.Sleep(9 * time.Second)
			if !c.Alive() || !s.Alive() || c.Usable() || s.Usable() {
				t.Errorf("after 9 s: client alive %v usable %v, server %v %v, want alive and not usable", c.Alive(), c.Usable(), s.Alive(), s.Usable())
			}
			time.Sleep(8 * time.Second)
			if !c.Usable() || !s.Usable() {
				t.Errorf("after 17 s: client usable %v, server %v", c.Usable(), s.Usable())
			}
			sea.mu.Lock()
			cut = true
			sea.mu.Unlock()
			time.Sleep(row.silence + 10*time.Millisecond)
			if c.Alive() || s.Alive() {
				t.Errorf("after a silence of %v: client alive %v, server %v", row.silence, c.Alive(), s.Alive())
			}
			sea.mu.Lock()
			cut = false
			sea.mu.Unlock()
			time.Sleep(7 * time.Second)
			if !c.Alive() || c.Usable() {
				t.Errorf("7 s after the silence: alive %v, usable %v, want alive alone", c.Alive(), c.Usable())
			}
			time.Sleep(8 * time.Second)
			if !c.Usable() {
				t.Error("not usable 15 s after the silence")
			}
		})
	}
}

// Proves that a peer never trusts a path that is not wanted, that one which was stops
// within seconds and stays away, and comes back when it is wanted again.
func TestWhatIsNotWantedIsNotUsedByThePeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := sides(t, newSea(), V2, func(c *Config) { c.Wanted = false })
		time.Sleep(30 * time.Second)
		if s.Alive() || !c.Usable() {
			t.Fatalf("unwanted: the server trusts it: %v; we may use it: %v", s.Alive(), c.Usable())
		}
		c.Want(true)
		time.Sleep(12 * time.Second)
		if !s.Usable() {
			t.Fatal("wanted: the server does not use it")
		}
		c.Want(false)
		time.Sleep(4 * time.Second)
		for range 100 {
			if s.Usable() {
				t.Fatal("the server uses what is not wanted any more")
			}
			time.Sleep(500 * time.Millisecond)
		}
		if s.Alive() || !c.Alive() {
			t.Errorf("long after: the server trusts it: %v; alive: %v", s.Alive(), c.Alive())
		}
		c.Want(true)
		time.Sleep(12 * time.Second)
		if !s.Usable() {
			t.Error("wanted again: the server does not use it")
		}
	})
}

// Proves that the newest datagram's sender is followed, and no older one's.
func TestThePeerIsFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sea := newSea()
		c, s := sides(t, sea, V2, nil)
		time.Sleep(2 * time.Second)
		if got := s.Peer().String(); got != clientAt {
			t.Errorf("the client was found at %s, want %s", got, clientAt)
		}
		sea.mu.Lock()
		old := slices.Clone(sea.seen[len(sea.seen)-1])
		sea.mu.Unlock()
		const moved = "203.0.113.9:1234"
		c.socket.move(moved)
		time.Sleep(2 * time.Second)
		if got := s.Peer().String(); got != moved {
			t.Errorf("after its NAT forgot it the client was found at %s, want %s", got, moved)
		}
		thief := sea.listen("198.51.100.66:6666")
		thief.WriteTo(old, s.socket.LocalAddr())
		c.WriteFrames([][]byte{testFrame(1, 60)})
		s.got.Received(t.Context(), 1)
		if got := s.Peer().String(); got != moved {
			t.Errorf("a replayed datagram led to %s", got)
		}
	})
}

// Proves that all addresses are tried until one answers, and then no other.
func TestCandidatesAreProbed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sea := newSea()
		tried := map[netip.AddrPort]int{}
		sea.drop = func(from, to netip.AddrPort, _ []byte) bool { tried[to]++; return false }
		nowhere := netip.MustParseAddrPort("203.0.113.1:40000")
		c, _ := sides(t, sea, V2, func(c *Config) { c.Peers = []netip.AddrPort{nowhere, c.Peers[0]} })
		sea.mu.Lock()
		sea.ports[nowhere] = &buoy{in: make(chan message)} // to be counted
		sea.mu.Unlock()
		time.Sleep(3 * time.Second)
		if !c.Alive() || c.Peer().String() != serverAt {
			t.Fatalf("alive %v at %v, want at %s", c.Alive(), c.Peer(), serverAt)
		}
		before := c.Stats().OutProbes
		time.Sleep(10 * time.Second)
		if got := c.Stats().OutProbes; got != before || before == 0 {
			t.Errorf("probes: %d, and %d once it answered, want some and none", before, got-before)
		}
	})
}

// Proves that each kind of bad datagram is dropped, counted by its reason, and does no
// harm.
func TestHostileDatagrams(t *testing.T) {
	seal := func(v Version, key byte, cookie uint32, h header, f []byte) []byte {
		s, err := newSealer(v, count(key, v.keyLen()), cookie)
		if err != nil {
			t.Fatal(err)
		}
		return s.append(nil, h, f, 0)
	}
	now := header{myTick: 39_000}
	for _, v := range versions {
		rows := []struct {
			name  string
			send  [][]byte
			count func(Stats) uint64
			want  uint64
		}{
			{"cookie", [][]byte{seal(v, 2, 99, now, nil)}, func(s Stats) uint64 { return s.DroppedCookie }, 1},
			{"truncated", [][]byte{{}, {1}, seal(v, 2, 22, now, nil)[:v.Overhead()-1]}, func(s Stats) uint64 { return s.DroppedTruncated }, 3},
			{"oversized", [][]byte{make([]byte, 2049), make([]byte, 60000)}, func(s Stats) uint64 { return s.DroppedOversized }, 2},
			{"short frame", [][]byte{seal(v, 2, 22, now, make([]byte, 13))}, func(s Stats) uint64 { return s.DroppedNoFrame }, 1},
			{"long frame", [][]byte{seal(v, 2, 22, now, make([]byte, 1601))}, func(s Stats) uint64 { return s.DroppedNoFrame }, 1},
			{"stale", [][]byte{seal(v, 2, 22, header{myTick: 5000}, testFrame(1, 60))},
				func(s Stats) uint64 { return s.DroppedStale }, 1},
			{"a compressed one where none is", [][]byte{seal(v, 2, 22, header{myTick: 39_000, flag: flagCompressed}, testFrame(1, 60))},
				func(s Stats) uint64 { return s.DroppedCorrupt }, 1},
		}
		if v != Plain {
			again := seal(v, 2, 22, now, testFrame(1, 60))
			rows = append(rows, []struct {
				name  string
				send  [][]byte
				count func(Stats) uint64
				want  uint64
			}{
				{"replayed", [][]byte{again, again, again}, func(s Stats) uint64 { return s.DroppedReplayed }, 2},
				{"forged", [][]byte{seal(v, 9, 22, now, testFrame(1, 60))}, func(s Stats) uint64 { return s.DroppedForged }, 1},
			}...)
		}
		for _, row := range rows {
			t.Run(v.String()+"/"+row.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					sea := newSea()
					c, s := sides(t, sea, v, nil)
					time.Sleep(40 * time.Second)
					enemy := sea.listen("198.51.100.66:6666")
					before := row.count(c.Stats())
					for _, d := range row.send {
						enemy.WriteTo(d, c.socket.LocalAddr())
					}
					synctest.Wait()
					if got := row.count(c.Stats()) - before; got != row.want {
						t.Errorf("counted %d, want %d", got, row.want)
					}
					time.Sleep(3 * time.Second)
					f := testFrame(7, 200)
					s.WriteFrames([][]byte{f})
					synctest.Wait()
					frames := c.got.Received(t.Context(), 1)
					for !bytes.Equal(frames[len(frames)-1], f) { // what a replay was of has come first
						frames = c.got.Received(t.Context(), 1)
					}
				})
			})
		}
	}
}

func TestRoundTripAndLossAreMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sea := newSea()
		n := 0
		lossy := false
		sea.drop = func(from, to netip.AddrPort, _ []byte) bool {
			if !lossy || from.String() != serverAt {
				return false
			}
			n++
			return n%3 == 0
		}
		c, _ := sides(t, sea, V2, nil)
		time.Sleep(40 * time.Second)
		if q := c.Quality(); q.Loss != 0 || q.Seen < 20 {
			t.Errorf("of a good path: %+v", q)
		}
		c.Probe(3 * time.Second)
		time.Sleep(3 * time.Second)
		if q := c.Quality(); q.RoundTrip > 15*time.Millisecond {
			t.Errorf("round trip: got %v, want the 10 ms between probes at most", q.RoundTrip)
		}
		sea.mu.Lock()
		lossy = true
		sea.mu.Unlock()
		time.Sleep(40 * time.Second)
		if q := c.Quality(); q.Loss < 0.2 || q.Loss > 0.45 {
			t.Errorf("with one of three lost: got a loss of %.2f", q.Loss)
		}
	})
}

func TestRunsOfOneSize(t *testing.T) {
	p := &Path{cfg: Config{Version: V2}, sealer: mustSealer(t)}
	for _, n := range []int{1300, 1290, 1269, 1268, 60, 1300, 60, 66, 60} {
		p.seal(header{myTick: 1}, testFrame(1, n), 2000)
	}
	var got []int
	for _, r := range p.runs {
		got = append(got, r.n)
		for at := r.start; at < r.end; at += r.size {
			if _, _, err := mustOpener(t).open(slices.Clone(p.slab[at:min(at+r.size, r.end)])); err != nil {
				t.Errorf("a datagram at %d of a run of %d: %v", at, r.size, err)
			}
		}
	}
	// Three are padded to the first's size, a shorter one may end a run.
	if want := []int{4, 1, 2, 2}; !slices.Equal(got, want) {
		t.Errorf("runs: got %v, want %v", got, want)
	}
}

func mustSealer(t *testing.T) *sealer { s, _ := pairOf(t, V2); return s }
func mustOpener(t *testing.T) *opener { _, o := pairOf(t, V2); return o }

func TestPackedIsUnpacked(t *testing.T) {
	f := testFrame(1, 900)
	got, ok := wire.NewUnpacker().Unpack(wire.NewPacker().Pack(f))
	if !ok || !bytes.Equal(got, f) {
		t.Errorf("got %d bytes, %v, want %d", len(got), ok, len(f))
	}
}

package dhcp

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"

	"softether-go/pkg/frame"
	"softether-go/pkg/frame/frametest"
	"softether-go/pkg/netcfg"
)

func TestFirstLeaseTakesTwoMessagesAndTheGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newLAN(t, newServer())
		start := time.Now()
		got := n.mustAcquire()
		want := Lease{
			Config: netcfg.Config{
				Address: netip.MustParsePrefix("10.0.0.50/24"),
				Gateway: serverIP,
				DNS:     netcfg.DNS{Servers: []netip.Addr{serverIP}},
			},
			Server: serverIP, ServerMAC: net.HardwareAddr(serverMAC[:]),
			Start: start.Add(latency),
		}
		want.T1, want.T2 = want.Start.Add(time.Hour), want.Start.Add(105*time.Minute)
		want.Expiry = want.Start.Add(2 * time.Hour)
		if d := cmp.Diff(want, got, compareAddrs, comparePrefixes); d != "" {
			t.Errorf("lease (-want +got):\n%s", d)
		}
		n.wantTrail("DISCOVER, SELECT 10.0.0.50 of 10.0.0.1, ARP 10.0.0.50, ARP 10.0.0.50")
		if got, want := time.Since(start), 2*latency+minGrace; got != want {
			t.Errorf("took %v, want %v", got, want)
		}
		if n.sent[0].TransactionID != n.sent[1].TransactionID {
			t.Errorf("REQUEST %v is not in the transaction of its DISCOVER %v", n.sent[1].TransactionID, n.sent[0].TransactionID)
		}
		if l, ok := n.client.Lease(); !ok || !l.Equal(got.Config) {
			t.Errorf("remembered: %v %v", l, ok)
		}
	})
}

func TestProbeWaitsAsLongAsTheServerTookWithinBounds(t *testing.T) {
	for _, row := range []struct {
		name              string
		server, wantGrace time.Duration
	}{
		{"a near server: the least", 0, minGrace},
		{"a far server: as long again", 150 * time.Millisecond, 160 * time.Millisecond},
		{"a slow server: the most", 700 * time.Millisecond, maxGrace},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServer()
				s.delay = row.server
				n := newLAN(t, s)
				start := time.Now()
				n.mustAcquire()
				if got, want := time.Since(start), 2*(latency+row.server)+row.wantGrace; got != want {
					t.Errorf("took %v, want %v", got, want)
				}
			})
		})
	}
}

func TestFirstOfTwoOffersIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := newServer(), newServer()
		second.ip, second.mac, second.gives = otherIP, otherMAC, secondIP
		second.delay = time.Millisecond // its OFFER arrives while the first one's ACK is awaited
		n := newLAN(t, first, second)
		if got := n.mustAcquire(); got.Server != serverIP || got.Address.Addr() != leasedIP {
			t.Errorf("got %v from %v", got.Address, got.Server)
		}
		if got := n.client.Stats().Ignored; got != 1 {
			t.Errorf("%d replies ignored, want the second offer", got)
		}
	})
}

func TestOtherServersAnswerToOurRequestIsIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newLAN(t, newServer())
		liar := newServer() // answers first to everything, whomever it is for
		liar.ip, liar.mac, liar.refuses = otherIP, otherMAC, map[string]bool{"SELECT": true}
		n.onFrame = func(f []byte) {
			if frame.EtherType(f) != frame.TypeIPv4 {
				return
			}
			if m, p := n.parseSent(f); m.MessageType() == dhcpv4.MessageTypeRequest {
				n.deliver(latency/2, serverFrame(path{srcMAC: otherMAC, dstMAC: ourMAC, src: otherIP, dst: p.src}, liar.reply("SELECT", m).ToBytes()))
			}
		}
		if got := n.mustAcquire(); got.Server != serverIP {
			t.Errorf("lease from %v", got.Server)
		}
		n.wantTrail("DISCOVER, SELECT 10.0.0.50 of 10.0.0.1, ARP 10.0.0.50, ARP 10.0.0.50")
	})
}

func TestDiscoverIsRepeatedWithBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newLAN(t)
		_, err := n.acquire(100 * time.Second)
		if !errors.Is(err, ErrNoServer) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		if got, want := err.Error(), "dhcp: no DHCP server answered on this hub within 1m40s: context deadline exceeded"; got != want {
			t.Errorf("error %q, want %q", got, want)
		}
		wants := []time.Duration{1, 2, 4, 8, 16, 16, 16}
		if len(n.times) <= len(wants) {
			t.Fatalf("only %d DISCOVERs", len(n.times))
		}
		for i, want := range wants {
			want *= time.Second
			if got := n.times[i+1].Sub(n.times[i]); got < want*3/4 || got > want*5/4 {
				t.Errorf("interval %d is %v, want %v give or take a quarter", i, got, want)
			}
		}
		if got, want := n.trail(), "DISCOVER, DISCOVER, DISCOVER broadcast, DISCOVER broadcast"; !strings.HasPrefix(got, want) {
			t.Errorf("sent %s, want it to start with %s", got, want)
		}
		if got := n.sent[4].NumSeconds; got < 11 || got > 19 {
			t.Errorf("fifth DISCOVER says it has been %d seconds, want about 15", got)
		}
	})
}

func TestServerThatNeedsTheBroadcastFlagIsReached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		n := newLAN(t, s)
		s.silent["DISCOVER"] = true
		n.onFrame = func(f []byte) {
			m, _ := n.parseSent(f)
			s.silent["DISCOVER"] = !m.IsBroadcast()
			n.onFrame = map[bool]func([]byte){false: n.onFrame}[m.IsBroadcast()]
		}
		n.mustAcquire()
		n.wantTrail("DISCOVER, DISCOVER, DISCOVER broadcast, SELECT 10.0.0.50 of 10.0.0.1 broadcast, ARP 10.0.0.50, ARP 10.0.0.50")
	})
}

func TestAddressInUseIsDeclined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		n := newLAN(t, s)
		n.owners[leasedIP] = otherMAC
		n.onFrame = func(f []byte) {
			if frame.EtherType(f) == frame.TypeIPv4 {
				if m, _ := n.parseSent(f); m.MessageType() == dhcpv4.MessageTypeDecline {
					s.gives = secondIP
				}
			}
		}
		got := n.mustAcquire()
		if got.Address.Addr() != secondIP {
			t.Errorf("got %v, which somebody else has", got.Address)
		}
		n.wantTrail("DISCOVER, SELECT 10.0.0.50 of 10.0.0.1, ARP 10.0.0.50, DECLINE 10.0.0.50 of 10.0.0.1, " +
			"DISCOVER, SELECT 10.0.0.51 of 10.0.0.1, ARP 10.0.0.51, ARP 10.0.0.51")
	})
}

func TestOwnerThatAnswersTheSecondProbeKeepsTheAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newLAN(t, newServer())
		probes := 0
		n.onFrame = func(f []byte) {
			if frame.EtherType(f) == frame.TypeARP {
				probes++
				if probes == 2 {
					n.owners[leasedIP] = otherMAC
				}
			}
		}
		_, err := n.acquire(500 * time.Millisecond)
		if err == nil || !errors.Is(err, ErrConflict) {
			t.Errorf("error %v, want %v", err, ErrConflict)
		}
		n.wantTrail("DISCOVER, SELECT 10.0.0.50 of 10.0.0.1, ARP 10.0.0.50, ARP 10.0.0.50, DECLINE 10.0.0.50 of 10.0.0.1")
		if l, ok := n.client.Lease(); ok {
			t.Errorf("declined lease remembered: %v", l)
		}
	})
}

func TestOnlyTheOwnersClaimCounts(t *testing.T) {
	for _, row := range []struct {
		name  string
		frame []byte
	}{
		{"our own probe, reflected", arpProbe(ourMAC, leasedIP)},
		{"somebody's claim of another address", arpAnswer(otherMAC, secondIP)},
		{"a probe by somebody else", arpProbe(otherMAC, leasedIP)},
		{"our own answer", arpAnswer(ourMAC, leasedIP)},
		{"a short ARP packet", arpAnswer(otherMAC, leasedIP)[:41]},
		{"ARP for another network", frametest.Frame(ourMAC[:], otherMAC[:], frame.TypeARP, make([]byte, 28))},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newLAN(t, newServer())
				heard := 0
				n.onFrame = func(f []byte) {
					if frame.EtherType(f) == frame.TypeARP {
						n.deliver(latency, row.frame)
						heard++
					}
				}
				n.mustAcquire()
				if got := len(n.passed.Received(t.Context(), heard)); got != 2 {
					t.Errorf("%d ARP frames passed on, want 2", got)
				}
			})
		})
	}
}

func TestRefusedRequestStartsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		s.refuses["SELECT"] = true
		n := newLAN(t, s)
		time.AfterFunc(2*time.Second, func() { n.change(func() { s.refuses["SELECT"] = false }) })
		n.mustAcquire()
		n.wantTrail("DISCOVER, SELECT 10.0.0.50 of 10.0.0.1, ARP 10.0.0.50, " +
			"DISCOVER, SELECT 10.0.0.50 of 10.0.0.1, ARP 10.0.0.50, " +
			"DISCOVER, SELECT 10.0.0.50 of 10.0.0.1, ARP 10.0.0.50, ARP 10.0.0.50")
	})
}

func TestServerThatOffersAndFallsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		s.silent["SELECT"] = true
		n := newLAN(t, s)
		_, err := n.acquire(12 * time.Second)
		want := "dhcp: no lease within 12s (server 10.0.0.1 offered 10.0.0.50, then gave no answer): context deadline exceeded"
		if err == nil || err.Error() != want {
			t.Errorf("error\n got %v\nwant %s", err, want)
		}
		again := "SELECT 10.0.0.50 of 10.0.0.1, ARP 10.0.0.50, "
		if got, want := n.trail(), "DISCOVER, "+again+again+again+"DISCOVER, "; !strings.HasPrefix(got, want) {
			t.Errorf("sent\n got %s\nwant %s…", got, want)
		}
	})
}

func TestErrorSaysWhyAServerIsOfNoUse(t *testing.T) {
	for _, row := range []struct {
		name string
		set  func(*server)
		want string
	}{
		{"no address left", func(s *server) { s.refuses["DISCOVER"] = true },
			`server 10.0.0.1 refused (NAK): "not today"`},
		{"NAK to every request", func(s *server) { s.refuses["SELECT"] = true },
			`server 10.0.0.1 refused (NAK): "not today"`},
		{"offer of no address", func(s *server) { s.gives = netip.IPv4Unspecified() },
			"OFFER from 10.0.0.1: 0.0.0.0 is not an address for a host"},
		{"offer of another address than acknowledged", func(s *server) {
			s.edit = func(m *dhcpv4.DHCPv4) {
				if m.MessageType() == dhcpv4.MessageTypeAck {
					m.YourIPAddr = secondIP.AsSlice()
				}
			}
		}, "server 10.0.0.1 offered 10.0.0.50, then gave no answer"},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServer()
				row.set(s)
				n := newLAN(t, s)
				_, err := n.acquire(20 * time.Second)
				want := "dhcp: no lease within 20s (" + row.want + "): context deadline exceeded"
				if err == nil || err.Error() != want {
					t.Errorf("error\n got %v\nwant %s", err, want)
				}
			})
		})
	}
}

func TestAcquireEndsWithItsWriter(t *testing.T) {
	broken := errors.New("session is gone")
	for _, row := range []struct {
		name  string
		after int
	}{{"at the DISCOVER", 0}, {"at the REQUEST", 1}, {"at the second probe", 2}} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newLAN(t, newServer())
				_, err := n.client.Acquire(t.Context(), frametest.FailAfter(row.after, n, broken))
				if !errors.Is(err, broken) {
					t.Errorf("error %v", err)
				}
			})
		})
	}
}

func TestAcquireEndsWithItsContextAtEveryStep(t *testing.T) {
	for _, after := range []time.Duration{0, latency / 2, latency + latency/2, 2*latency + 1, 2*latency + minGrace - 1} {
		t.Run(after.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newLAN(t, newServer())
				start := time.Now()
				_, err := n.acquire(after)
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("error %v", err)
				}
				if got := time.Since(start); got != after {
					t.Errorf("took %v", got)
				}
			})
		})
	}
}

func TestOneCallAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newLAN(t)
		done := make(chan error)
		go func() {
			_, err := n.acquire(time.Second)
			done <- err
		}()
		synctest.Wait()
		if _, err := n.acquire(time.Second); !errors.Is(err, errBusy) {
			t.Errorf("second Acquire: %v", err)
		}
		if err := n.client.Keep(t.Context(), n, nil); !errors.Is(err, errBusy) {
			t.Errorf("Keep: %v", err)
		}
		if err := n.client.Release(t.Context(), n); !errors.Is(err, errBusy) {
			t.Errorf("Release: %v", err)
		}
		if err := <-done; !errors.Is(err, ErrNoServer) {
			t.Errorf("first Acquire: %v", err)
		}
	})
}

func TestUselessMACIsAnError(t *testing.T) {
	for name, hw := range map[string]net.HardwareAddr{
		"none": nil, "too short": {2, 0, 0}, "too long": make(net.HardwareAddr, 8),
		"zero": make(net.HardwareAddr, 6), "group": broadcastMAC[:],
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := New(Config{MAC: hw}).Acquire(t.Context(), newLAN(t)); err == nil || !strings.Contains(err.Error(), "MAC") {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestRandomNumbersThatEndAreAnError(t *testing.T) {
	c := New(Config{MAC: ourMAC[:], Rand: strings.NewReader("xid")})
	if _, err := c.Acquire(t.Context(), newLAN(t)); err == nil || !strings.Contains(err.Error(), "random") {
		t.Errorf("error %v", err)
	}
}

package dhcp

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"softether-go/pkg/frame/frametest"
)

// keep runs Keep until the given time has passed or it ends by itself, and
// returns its error and the leases it reported.
func (n *lan) keep(limit time.Duration) (changes []Lease, err error) {
	ctx, cancel := context.WithTimeout(n.t.Context(), limit)
	defer cancel()
	err = n.client.Keep(ctx, n, func(l Lease) { changes = append(changes, l) })
	return changes, err
}

func TestLeaseIsRenewedWithItsServerAtT1(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newLAN(t, newServer())
		first := n.mustAcquire()
		n.trail()
		changes, err := n.keep(90 * time.Minute)
		if !errors.Is(err, context.DeadlineExceeded) || len(changes) != 0 {
			t.Errorf("error %v, changes %v; want none before the deadline", err, changes)
		}
		n.wantTrail("RENEW 10.0.0.50 with 10.0.0.1")
		got, _ := n.client.Lease()
		if !got.Start.Equal(first.T1) || !got.Expiry.Equal(first.T1.Add(2*time.Hour)) {
			t.Errorf("renewed at %v until %v, want at %v", got.Start, got.Expiry, first.T1)
		}
	})
}

func TestLeaseIsKeptForDays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newLAN(t, newServer())
		n.mustAcquire()
		n.trail()
		if _, err := n.keep(72*time.Hour + time.Minute); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		if got, want := strings.Count(n.trail(), "RENEW"), 72; got != want {
			t.Errorf("%d renewals in 72 hours, want %d", got, want)
		}
	})
}

func TestRenewalGoesToTheMACTheReplyCameFrom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		s.ip = toAddr(net.IP{192, 0, 2, 7}) // behind a router, whose MAC its frames have
		n := newLAN(t, s)
		n.mustAcquire()
		n.trail()
		if _, err := n.keep(90 * time.Minute); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		n.wantTrail("RENEW 10.0.0.50 with 192.0.2.7")
	})
}

func TestLeaseIsRenewedWithAnybodyAtT2(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		s.silent["RENEW"], s.silent["REBIND"] = true, true
		n := newLAN(t, s)
		first := n.mustAcquire()
		n.trail()
		heir := newServer()
		heir.ip, heir.mac, heir.silent = otherIP, otherMAC, map[string]bool{"DISCOVER": true, "RENEW": true}
		n.servers = append(n.servers, heir)
		if _, err := n.keep(time.Until(first.T2) + time.Second); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		trail := n.trail()
		if !strings.HasPrefix(trail, "RENEW 10.0.0.50 with 10.0.0.1, RENEW") || !strings.HasSuffix(trail, ", REBIND 10.0.0.50") {
			t.Errorf("sent %s", trail)
		}
		// 45 minutes in halves of what remains, down to ten seconds.
		if got := strings.Count(trail, "RENEW"); got < 8 || got > 14 {
			t.Errorf("%d renewals before T2: %s", got, trail)
		}
		got, _ := n.client.Lease()
		if got.Server != otherIP || mac(got.ServerMAC) != otherMAC {
			t.Errorf("lease is with %v at %v, want the server that answered", got.Server, got.ServerMAC)
		}
	})
}

func TestUnansweredLeaseExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		s.silent["RENEW"], s.silent["REBIND"] = true, true
		n := newLAN(t, s)
		first := n.mustAcquire()
		n.trail()
		_, err := n.keep(24 * time.Hour)
		if !errors.Is(err, ErrExpired) {
			t.Errorf("error %v, want %v", err, ErrExpired)
		}
		if got := time.Now(); !got.Equal(first.Expiry) {
			t.Errorf("ended at %v, want %v", got, first.Expiry)
		}
		if l, ok := n.client.Lease(); ok {
			t.Errorf("remembered %v", l)
		}
		for i := 1; i < len(n.times); i++ {
			if d := n.times[i].Sub(n.times[i-1]); d < minRetransmit {
				t.Errorf("renewal %d only %v after the one before", i, d)
			}
		}
	})
}

func TestRefusedRenewalRevokesTheLease(t *testing.T) {
	for _, row := range []struct {
		name string
		set  func(*server)
	}{
		{"by its server at T1", func(s *server) { s.refuses["RENEW"] = true }},
		{"by anybody at T2", func(s *server) { s.silent["RENEW"] = true; s.refuses["REBIND"] = true }},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServer()
				row.set(s)
				n := newLAN(t, s)
				n.mustAcquire()
				_, err := n.keep(24 * time.Hour)
				want := `dhcp: 10.0.0.50: lease revoked by the server: server 10.0.0.1 refused (NAK): "not today"`
				if !errors.Is(err, ErrRevoked) || err.Error() != want {
					t.Errorf("error\n got %v\nwant %s", err, want)
				}
				if l, ok := n.client.Lease(); ok {
					t.Errorf("remembered %v", l)
				}
			})
		})
	}
}

func TestForeignNAKDoesNotRevoke(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		n := newLAN(t, s)
		n.mustAcquire()
		liar := newServer()
		liar.ip, liar.mac, liar.refuses = otherIP, serverMAC, map[string]bool{"RENEW": true} // hears unicast to the server
		n.servers = []*server{liar, s}
		if _, err := n.keep(2 * time.Hour); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
	})
}

func TestChangedOptionsAreReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		n := newLAN(t, s)
		n.mustAcquire()
		n.change(func() { s.options = append(s.options, dhcpv4.OptDNS(otherIP.AsSlice())) })
		changes, err := n.keep(5 * time.Hour) // several renewals, one change
		if !errors.Is(err, context.DeadlineExceeded) || len(changes) != 1 {
			t.Fatalf("error %v, %d changes, want 1", err, len(changes))
		}
		if got := changes[0].DNS.Servers; len(got) != 1 || got[0] != otherIP {
			t.Errorf("DNS %v, want %v", got, otherIP)
		}
		if l, _ := n.client.Lease(); !l.Equal(changes[0].Config) {
			t.Errorf("remembered %v, reported %v", l, changes[0])
		}
	})
}

func TestRenewalForAnotherAddressIsIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		n := newLAN(t, s)
		n.mustAcquire()
		n.change(func() { s.gives = secondIP })
		changes, err := n.keep(24 * time.Hour)
		if !errors.Is(err, ErrExpired) || len(changes) != 0 {
			t.Errorf("error %v, changes %v", err, changes)
		}
	})
}

func TestSlowOwnerGetsItsAddressBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newLAN(t, newServer())
		n.owners[leasedIP], n.slow = otherMAC, time.Second
		n.mustAcquire() // the probe is over before the answer comes
		n.trail()
		_, err := n.keep(time.Hour)
		if !errors.Is(err, ErrConflict) {
			t.Errorf("error %v, want %v", err, ErrConflict)
		}
		n.wantTrail("DECLINE 10.0.0.50 of 10.0.0.1")
		if l, ok := n.client.Lease(); ok {
			t.Errorf("remembered %v", l)
		}
	})
}

func TestClaimLongAfterTheProbeDoesNotTakeTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newLAN(t, newServer())
		n.mustAcquire()
		n.deliver(lateAnswer, arpAnswer(otherMAC, leasedIP))
		if _, err := n.keep(10 * time.Minute); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
	})
}

func TestEndlessLeaseIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		s.lease = forever
		n := newLAN(t, s)
		l := n.mustAcquire()
		if !l.T1.IsZero() || !l.T2.IsZero() || !l.Expiry.IsZero() {
			t.Errorf("times %v %v %v, want none", l.T1, l.T2, l.Expiry)
		}
		n.trail()
		if _, err := n.keep(10000 * time.Hour); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		n.wantTrail("")
	})
}

func TestShortestLeaseDoesNotMakeUsSpin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		s.lease = time.Second
		s.options = append(s.options, dhcpv4.OptRenewTimeValue(0), dhcpv4.OptRebindingTimeValue(time.Second))
		n := newLAN(t, s)
		n.mustAcquire()
		n.trail()
		if _, err := n.keep(time.Minute); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		if got := strings.Count(n.trail(), "RENEW"); got < 11 || got > 12 {
			t.Errorf("%d renewals in a minute, want one every %v", got, minRenew)
		}
	})
}

func TestKeepWithoutALease(t *testing.T) {
	n := newLAN(t)
	if _, err := n.keep(time.Second); !errors.Is(err, ErrExpired) {
		t.Errorf("error %v, want %v", err, ErrExpired)
	}
}

func TestKeepEndsWithItsWriterAndRemembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newLAN(t, newServer())
		n.mustAcquire()
		broken := errors.New("session is gone")
		err := n.client.Keep(t.Context(), frametest.FailAfter(0, n, broken), nil)
		if !errors.Is(err, broken) {
			t.Errorf("error %v", err)
		}
		if _, ok := n.client.Lease(); !ok {
			t.Error("lease is forgotten")
		}
	})
}

func TestReleaseGivesTheLeaseBackOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newLAN(t, newServer())
		n.mustAcquire()
		n.trail()
		for range 2 {
			if err := n.client.Release(t.Context(), n); err != nil {
				t.Errorf("release: %v", err)
			}
		}
		n.wantTrail("RELEASE 10.0.0.50 of 10.0.0.1, ARP 10.0.0.1")
		n.mustAcquire()
		if got := n.trail(); !strings.HasPrefix(got, "DISCOVER, ") {
			t.Errorf("sent %s", got)
		}
	})
}

func TestReleaseThatCannotBeSentForgetsAllTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newLAN(t, newServer())
		n.mustAcquire()
		broken := errors.New("session is gone")
		if err := n.client.Release(t.Context(), frametest.FailAfter(0, n, broken)); !errors.Is(err, broken) {
			t.Errorf("error %v", err)
		}
		if l, ok := n.client.Lease(); ok {
			t.Errorf("remembered %v", l)
		}
	})
}

package dhcp

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestNextSessionConfirmsTheAddressWithOneMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newLAN(t, newServer())
		first := n.mustAcquire()
		n.trail()
		time.Sleep(10 * time.Minute)
		start := time.Now()
		second := n.mustAcquire()
		n.wantTrail("REBOOT 10.0.0.50")
		if got := time.Since(start); got != latency {
			t.Errorf("took %v, want one round trip of %v", got, latency)
		}
		if !second.Equal(first.Config) || !second.Start.Equal(start) {
			t.Errorf("got %v from %v, want %v from %v", second.Address, second.Start, first.Address, start)
		}
	})
}

func TestNextSessionFallsBackToDiscover(t *testing.T) {
	for _, row := range []struct {
		name, want string
		set        func(*server)
	}{
		{"when the address is refused, at once", "REBOOT 10.0.0.50, DISCOVER, ",
			func(s *server) { s.refuses["REBOOT"] = true }},
		{"when nobody confirms it, with a wish", "REBOOT 10.0.0.50, REBOOT 10.0.0.50, DISCOVER wish 10.0.0.50, ",
			func(s *server) { s.silent["REBOOT"] = true }},
		{"when another address comes back", "REBOOT 10.0.0.50, REBOOT 10.0.0.50, DISCOVER wish 10.0.0.50, ",
			func(*server) {}},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServer()
				n := newLAN(t, s)
				n.mustAcquire()
				n.trail()
				s.gives = secondIP
				row.set(s)
				got := n.mustAcquire()
				if got.Address.Addr() != secondIP {
					t.Errorf("got %v", got.Address)
				}
				n.wantTrail(row.want + "SELECT 10.0.0.51 of 10.0.0.1, ARP 10.0.0.51, ARP 10.0.0.51")
			})
		})
	}
}

func TestExpiredLeaseIsNotConfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newLAN(t, newServer())
		n.mustAcquire()
		n.trail()
		time.Sleep(2 * time.Hour)
		if l, ok := n.client.Lease(); ok {
			t.Errorf("still there: %v", l)
		}
		n.mustAcquire()
		if got := n.trail(); !strings.HasPrefix(got, "DISCOVER, ") {
			t.Errorf("sent %s", got)
		}
	})
}

func TestUnansweredConfirmationIsRememberedForLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		n := newLAN(t, s)
		n.mustAcquire()
		n.trail()
		s.silent = map[string]bool{"REBOOT": true, "DISCOVER": true}
		if _, err := n.acquire(5 * time.Second); !errors.Is(err, ErrNoServer) {
			t.Errorf("error %v", err)
		}
		n.trail()
		s.silent = nil
		n.mustAcquire()
		n.wantTrail("REBOOT 10.0.0.50")
	})
}

func TestAddressDeclinedIsNotWishedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		n := newLAN(t, s)
		n.mustAcquire()
		n.trail()
		s.silent["REBOOT"] = true
		n.owners[leasedIP] = otherMAC // moved in while we were away
		if _, err := n.acquire(5 * time.Second); !errors.Is(err, ErrConflict) {
			t.Errorf("error %v, want %v", err, ErrConflict)
		}
		want := "DISCOVER wish 10.0.0.50, SELECT 10.0.0.50 of 10.0.0.1, ARP 10.0.0.50, DECLINE 10.0.0.50 of 10.0.0.1, DISCOVER, "
		if got := n.trail(); !strings.Contains(got, want) {
			t.Errorf("sent\n got %s\nwant …%s…", got, want)
		}
	})
}

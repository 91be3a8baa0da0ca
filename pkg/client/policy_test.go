package client

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"softether-go/pkg/dhcp"
	"softether-go/pkg/netcfg"
	"softether-go/pkg/session"
	"softether-go/pkg/session/sessiontest"
	"softether-go/pkg/wire"
)

func TestPoliciesAreSaidInWords(t *testing.T) {
	p := wire.Policy{
		{Name: "Access", Value: 1}, {Name: "NoBridge", Value: 1}, {Name: "NoServer", Value: 1}, {Name: "MaxUpload", Value: 1_500_000},
		{Name: "MaxDownload", Value: 64_000}, {Name: "FilterIPv6", Value: 0}, {Name: "AutoDisconnect", Value: 600}, {Name: "unknown", Value: 1},
	}
	want := []string{
		"NoServer: nobody can connect to this end by TCP over IPv4",
		"MaxUpload: at most 1.5 Mbit/s to the hub",
		"MaxDownload: at most 64 kbit/s from the hub",
		"AutoDisconnect: the session ends after 600 s, and for good",
	}
	if got := explain(p); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for bits, want := range map[uint32]string{1: "1 bit/s", 2_000_000_000: "2 Gbit/s"} {
		if got := rate(bits); got != want {
			t.Errorf("%d: %s, want %s", bits, got, want)
		}
	}
}

// welcomeWith plays a server whose hub is silent.
func welcomeWith(change func(*wire.Welcome)) func(int, *sessiontest.Peer) {
	return func(_ int, p *sessiontest.Peer) {
		p.Greet()
		w := sessiontest.Welcome()
		change(&w)
		reply := w.Pack()
		reply.SetInt("vlan_id", uint32(w.VLAN))
		p.Reply(reply)
		chat(p, 0)
	}
}

func TestAPolicyExplainsThatThereIsNoLease(t *testing.T) {
	withDHCP := func(c *Config) { c.Static, c.DHCP = netcfg.Config{}, &dhcp.Config{MAC: []byte{2, 0, 0, 0, 0, 1}} }
	for _, row := range []struct {
		name   string
		change func(*wire.Welcome)
		within time.Duration
		want   string
	}{
		{"DHCP is filtered", func(w *wire.Welcome) { w.Policy = wire.Policy{{Name: "DHCPFilter", Value: 1}} }, time.Second,
			"no address by DHCP: the user's policy has DHCPFilter, so the hub drops DHCP"},
		{"IPv4 is filtered", func(w *wire.Welcome) { w.Policy = wire.Policy{{Name: "FilterIPv4", Value: 1}} }, time.Second, "has FilterIPv4"},
		{"a VLAN", func(w *wire.Welcome) { w.VLAN = 7 }, leaseTimeout + time.Second, "the hub has put us into VLAN 7, where there may be none"},
		{"nothing", func(w *wire.Welcome) {}, leaseTimeout + time.Second, "if the hub has none, use -no-dhcp"},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log strings.Builder
				w := newWorld(t, func(c *Config) { withDHCP(c); c.Log = logTo(&log) }, welcomeWith(row.change))
				w.run(row.within)
				if !strings.Contains(log.String(), row.want) {
					t.Errorf("within %v the log says\n%s\nwant %q", row.within, log.String(), row.want)
				}
			})
		})
	}
}

func TestAnAddressThatAPolicyForbidsIsWarnedOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		w := newWorld(t, func(c *Config) { c.Log = logTo(&log) },
			welcomeWith(func(w *wire.Welcome) { w.Policy = wire.Policy{{Name: "DHCPForce", Value: 1}} }))
		w.run(time.Second)
		if !strings.Contains(log.String(), "drop -no-dhcp") {
			t.Errorf("the log says\n%s", log.String())
		}
	})
}

func TestASessionThatThePolicyLimitsInTimeEndsForGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan time.Time, 1)
		serve := welcomeWith(func(w *wire.Welcome) { w.Policy = wire.Policy{{Name: "AutoDisconnect", Value: 600}} })
		w := newWorld(t, nil, func(n int, p *sessiontest.Peer) { serve(n, p); ended <- time.Now() })
		begun := time.Now()
		err := w.run(time.Hour)
		var se *session.Error
		if !errors.As(err, &se) || se.Advice() != wire.Never || !errors.Is(err, wire.CodeAutoDisconnect) {
			t.Fatalf("Run: %v, want an end for good by AutoDisconnect", err)
		}
		for _, want := range []string{"session with vpn.test:443", "10m0s have passed", "AutoDisconnect", "the server's administrator"} {
			if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %q, want one line with %q", err, want)
			}
		}
		if took := (<-ended).Sub(begun).Round(time.Second); took != 10*time.Minute {
			t.Errorf("the session took %v, want 10 min", took)
		}
		if len(w.dials) != 1 {
			t.Errorf("connected %d times, want once", len(w.dials))
		}
		if last := w.applied[len(w.applied)-1]; last.IsValid() {
			t.Errorf("the address %v was not taken back", last)
		}
		w.wantTrail("Dialing Configuring Up Stopped")
	})
}

func TestALostSessionBeginsThePolicysTimeAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil, func(n int, p *sessiontest.Peer) {
			p.Greet()
			welcome := sessiontest.Welcome()
			welcome.Policy = wire.Policy{{Name: "AutoDisconnect", Value: 600}}
			p.Reply(welcome.Pack())
			if n == 1 {
				chat(p, 9*time.Minute)
			} else {
				chat(p, 0)
			}
		})
		begun := time.Now()
		if err := w.run(time.Hour); !errors.Is(err, wire.CodeAutoDisconnect) || time.Since(begun) < 19*time.Minute {
			t.Errorf("after %v: %v, want the end of the second session", time.Since(begun), err)
		}
		w.wantTrail("Dialing Configuring Up Waiting Dialing Configuring Up Stopped")
	})
}

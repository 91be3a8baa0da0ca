package session

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"

	"softether-go/pkg/hub"
	"softether-go/pkg/hub/hubtest"
	"softether-go/pkg/session/sessiontest"
	"softether-go/pkg/wire"
)

var ticket = []byte(strings.Repeat("t", wire.HashLen))

// cluster is servers by address.
type cluster map[string]*hubtest.Hub

func (c cluster) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if h := c[address]; h != nil {
		return h.DialContext(ctx, network, address)
	}
	return nil, errors.New("nobody there")
}

// controller starts one that sends on to the member at 192.0.2.n.
func (c cluster) controller(t *testing.T, address string, n byte, cert []byte) *hubtest.Hub {
	h := hubtest.StartInMemory(t, hub.Config{
		Users:    []hub.User{{Name: "bob", Password: "secret"}},
		Tickets:  [][]byte{ticket}, // so that one can also send on who was sent on
		Redirect: &wire.Redirect{Member: netip.AddrFrom4([4]byte{192, 0, 2, n}), Ports: []uint16{992, 5555}, Ticket: ticket, Cert: cert},
	})
	c[address] = h
	return h
}

func (c cluster) config(roots *hubtest.Hub) Config {
	return Config{Host: "hub.demo", Port: 5555, Hub: "DEFAULT", User: "bob", Auth: wire.HashedPass, Password: "secret",
		Trust: Trust{Roots: roots.Roots}, DialContext: c.DialContext}
}

func TestARedirectIsFollowedWithItsTicket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster{}
		member := hubtest.StartInMemory(t, hub.Config{Tickets: [][]byte{ticket}}) // knows no user
		c["192.0.2.7:5555"] = member                                              // the port that we use already
		s := dial(t, c.config(c.controller(t, "hub.demo:5555", 7, member.Certificate())))
		if got := member.WaitSessions(t, 1); got[0].Name != s.Welcome().SessionName {
			t.Errorf("the member has %+v, we are %s", got, s.Welcome().SessionName)
		}
	})
}

func TestRedirectsThatLeadNowhere(t *testing.T) {
	other := sessiontest.Certificate(t, nil).Certificate[0]
	for _, row := range []struct {
		name   string
		build  func(t *testing.T, c cluster, member *hubtest.Hub) *hubtest.Hub
		want   string
		advice wire.Advice
	}{
		{"a member with another certificate", func(t *testing.T, c cluster, m *hubtest.Hub) *hubtest.Hub {
			c["192.0.2.7:5555"] = m
			return c.controller(t, "hub.demo:5555", 7, other)
		}, "not the one that this server has", wire.Never},
		{"a certificate that is none", func(t *testing.T, c cluster, m *hubtest.Hub) *hubtest.Hub {
			return c.controller(t, "hub.demo:5555", 7, []byte("nonsense"))
		}, "certificate of 192.0.2.7", wire.Retry},
		{"a member that is down", func(t *testing.T, c cluster, m *hubtest.Hub) *hubtest.Hub {
			return c.controller(t, "hub.demo:5555", 7, m.Certificate())
		}, "connect to 192.0.2.7:5555: nobody there", wire.Retry},
		{"a member that knows no ticket", func(t *testing.T, c cluster, m *hubtest.Hub) *hubtest.Hub {
			c["192.0.2.7:5555"] = hubtest.StartInMemory(t, hub.Config{Certificate: m.TLSCertificate()})
			return c.controller(t, "hub.demo:5555", 7, m.Certificate())
		}, "does not know the ticket", wire.Retry},
		{"two that send to each other", func(t *testing.T, c cluster, m *hubtest.Hub) *hubtest.Hub {
			second := hubtest.StartInMemory(t, hub.Config{Tickets: [][]byte{ticket}, Certificate: m.TLSCertificate(),
				Redirect: &wire.Redirect{Member: netip.MustParseAddr("192.0.2.7"), Ports: []uint16{5555}, Ticket: ticket, Cert: m.Certificate()}})
			c["192.0.2.7:5555"] = second
			return c.controller(t, "hub.demo:5555", 7, m.Certificate())
		}, "in circles: 192.0.2.7:5555 again", wire.Retry},
		{"a chain without end", func(t *testing.T, c cluster, m *hubtest.Hub) *hubtest.Hub {
			for n := byte(7); n < 20; n++ {
				c[netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, n}), 5555).String()] = hubtest.StartInMemory(t,
					hub.Config{Tickets: [][]byte{ticket}, Certificate: m.TLSCertificate(), Redirect: &wire.Redirect{
						Member: netip.AddrFrom4([4]byte{192, 0, 2, n + 1}), Ports: []uint16{5555}, Ticket: ticket, Cert: m.Certificate()}})
			}
			return c.controller(t, "hub.demo:5555", 7, m.Certificate())
		}, "in circles: hub.demo:5555, 192.0.2.7:5555", wire.Retry},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := cluster{}
				member := hubtest.StartInMemory(t, hub.Config{Tickets: [][]byte{ticket}})
				s, err := Dial(t.Context(), c.config(row.build(t, c, member)))
				if err == nil {
					s.Close()
				}
				var e *Error
				if !errors.As(err, &e) || !contains(err, row.want) || e.Advice() != row.advice {
					t.Errorf("got %v, want %q and advice %d", err, row.want, row.advice)
				}
				if contains(err, string(ticket)) {
					t.Error("the ticket is told to whoever reads errors")
				}
			})
		})
	}
}

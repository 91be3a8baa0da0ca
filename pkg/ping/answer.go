// Package ping asks hosts for echoes: whether they are there, how far away, and by which
// routers, as ping(8) and traceroute(8) do.
//
// # Theory of operation
//
// Both send echo requests on a Conn, which is whoever can send ICMP: a network stack, in
// our case. A request says in its identifier whose it is, and in its sequence number which.
// What comes back is an echo, or an error that holds the beginning of what it is about;
// all else that the Conn receives is somebody else's. One goroutine receives and hands
// on; the caller's does the rest, so what is reported comes in order.
//
// Run sends one request after the other, at intervals, and reports what comes whenever
// it comes. Trace sends requests that may only go so far: the router where one ends says
// so. Several hops are under way at a time, and they are reported in their order.
//
// # Limits
//
// A request is one packet, so no longer than the MTU. Trace goes 64 hops at most.
package ping

import (
	"context"
	"net/netip"
	"time"
)

// A Conn sends and receives ICMP messages of one family. An error of Receive that is a
// time-out means that nothing came; any other ends what is under way.
type Conn interface {
	Send(msg []byte, to netip.Addr, hops int, mayFragment bool) error
	Receive(b []byte) (n int, from netip.Addr, hops int, err error)
	SetReadDeadline(t time.Time) error
}

// An Answer is what came for one request.
type Answer struct {
	Seq   int
	From  netip.Addr
	Size  int // bytes of the message
	Hops  int // left when it came
	Time  time.Duration
	Again bool  // there was one before
	Error Error // what a router or the host says instead of an echo; zero for an echo
}

// An Error is what an ICMP error says.
type Error struct {
	Kind Kind
	MTU  int // of TooBig: what would fit, 0 if not said
}

// Kind is what an ICMP error is about.
type Kind uint8

// The kinds.
const (
	None Kind = iota
	NetUnreachable
	HostUnreachable
	ProtocolUnreachable
	PortUnreachable
	TooBig
	Prohibited
	Expired
	Other
)

var kinds = [...]struct{ text, mark string }{
	None:                {"", ""},
	NetUnreachable:      {"Destination Net Unreachable", "!N"},
	HostUnreachable:     {"Destination Host Unreachable", "!H"},
	ProtocolUnreachable: {"Destination Protocol Unreachable", "!P"},
	PortUnreachable:     {"Destination Port Unreachable", "!p"},
	TooBig:              {"Frag needed and DF set", "!F"},
	Prohibited:          {"Packet filtered", "!X"},
	Expired:             {"Time to live exceeded", ""},
	Other:               {"An ICMP error", "!"},
}

// String returns what ping(8) calls it.
func (k Kind) String() string { return kinds[k].text }

// Mark returns what traceroute(8) writes behind a time.
func (k Kind) Mark() string { return kinds[k].mark }

// received is a message of the Conn's that is about us.
type received struct {
	seq   int
	from  netip.Addr
	size  int
	hops  int
	at    time.Time
	error Error
}

// receive hands on what is about the requests of id until ctx ends or the Conn fails.
func receive(ctx context.Context, conn Conn, v6 bool, id uint16, out chan<- received) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	b := make([]byte, 1<<16)
	for {
		n, from, hops, err := conn.Receive(b)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return err
		}
		got, ok := parse(b[:n], v6)
		if !ok || got.id != id {
			continue
		}
		r := received{seq: int(got.seq), from: from, size: n, hops: hops, at: time.Now(), error: got.error}
		select {
		case out <- r:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

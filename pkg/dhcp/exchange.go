package dhcp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"softether-go/pkg/frame"
)

// A state is what we are doing towards the servers, after RFC 2131 §4.4. It
// decides what is sent, which answers count, and whether the address may be used.
// INIT and BOUND are not among them, as nothing is asked there.
type state int

const (
	rebooting  state = iota + 1 // asking anybody to confirm a remembered lease; address not usable; ACK or NAK of any server
	selecting                   // asking for offers; no address; OFFER of any server
	requesting                  // asking one server for what it offered; address not usable; ACK or NAK of that server
	renewing                    // asking our server, by unicast, to extend; address usable; its ACK or NAK
	rebinding                   // asking any server to extend; address usable; ACK or NAK of any server
)

var stateNames = map[state]string{
	rebooting: "rebooting", selecting: "selecting", requesting: "requesting",
	renewing: "renewing", rebinding: "rebinding",
}

func (s state) String() string { return stateNames[s] }

type xid = dhcpv4.TransactionID

// An exchange is one question to the servers, however often it is repeated.
type exchange struct {
	state     state
	xid       xid
	began     time.Time  // when it was first asked; a lease counts from here
	asked     time.Time  // when it was last asked
	since     time.Time  // since when we are without an answer, for the secs field
	addr      netip.Addr // asked for; in selecting it is a wish and may be invalid
	server    netip.Addr // whom it is for, in requesting and renewing
	serverMAC mac        // where that one is, in renewing
	broadcast bool       // want broadcast answers
	trouble   error      // why the latest reply was not an answer
}

// An answer is a reply that belongs to an exchange and makes sense.
type answer struct {
	kind   dhcpv4.MessageType
	server netip.Addr
	lease  Lease  // in an OFFER or ACK
	reason string // in a NAK; may be empty
}

var (
	errSilent  = errors.New("no answer")
	errRefused = errors.New("refused (NAK)")
)

func (a answer) refusal() error {
	if a.reason == "" {
		return fmt.Errorf("server %v %w", a.server, errRefused)
	}
	return fmt.Errorf("server %v %w: %q", a.server, errRefused, a.reason)
}

// open gives x a transaction of its own and makes the filter hear it. What is
// still queued for an earlier one is dropped.
func (c *Client) open(x *exchange) error {
	if _, err := io.ReadFull(c.rand, x.xid[:]); err != nil {
		return fmt.Errorf("dhcp: random transaction number: %w", err)
	}
	x.began = time.Now()
	drain(c.replies)
	c.awaited.Store(awaits(x.xid))
	return nil
}

// shut makes the filter deaf again.
func (c *Client) shut() { c.awaited.Store(0) }

func drain[T any](ch <-chan T) {
	for {
		select {
		case <-ch:
		default:
			return
		}
	}
}

// ask sends x and waits for its answer, an OFFER or an ACK, for the given time.
// The error is errSilent, errRefused, the cause of ctx's end, or out's. Replies
// that are no answer do not prolong the wait.
func (c *Client) ask(ctx context.Context, out frame.Writer, x *exchange, limit time.Duration) (answer, error) {
	if err := c.send(out, x); err != nil {
		return answer{}, err
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return answer{}, context.Cause(ctx)
		case <-timer.C:
			return answer{}, errSilent
		case r := <-c.replies:
			a, err := judge(x, r)
			if err != nil {
				c.ignored.Add(1)
				c.log.Debug("dhcp: reply ignored", "cause", err)
				x.trouble = err
				continue
			}
			if a.kind == dhcpv4.MessageTypeNak {
				return answer{}, a.refusal()
			}
			return a, nil
		}
	}
}

// judge decides what r means to x. An error says why it means nothing.
func judge(x *exchange, r reply) (answer, error) {
	m, err := decode(r.payload)
	if err != nil {
		return answer{}, fmt.Errorf("reply from %v: %w", r.src, err)
	}
	a := answer{kind: m.MessageType(), server: serverOf(m, r)}
	if a.kind == dhcpv4.MessageTypeNak {
		a.reason = m.Message()
	}
	switch {
	case m.TransactionID != x.xid:
		return answer{}, fmt.Errorf("%v from %v belongs to another transaction", a.kind, a.server)
	case x.state == selecting && a.kind == dhcpv4.MessageTypeNak:
		// So SecureNAT says that it has no address left; another server may have.
		return answer{}, a.refusal()
	case !x.expects(a):
		return answer{}, fmt.Errorf("%v from %v is no answer while %v", a.kind, a.server, x.state)
	case a.kind == dhcpv4.MessageTypeNak:
		return a, nil
	}
	if a.lease, err = leaseFrom(m, r, x.began); err != nil {
		return answer{}, fmt.Errorf("%v from %v: %w", a.kind, a.server, err)
	}
	if got := a.lease.Address.Addr(); x.state != selecting && got != x.addr {
		return answer{}, fmt.Errorf("%v from %v is for %v, asked for was %v", a.kind, a.server, got, x.addr)
	}
	return a, nil
}

// expects reports whether a may answer x, judged by its kind and server.
func (x *exchange) expects(a answer) bool {
	final := a.kind == dhcpv4.MessageTypeAck || a.kind == dhcpv4.MessageTypeNak
	switch x.state {
	case selecting:
		return a.kind == dhcpv4.MessageTypeOffer
	case requesting, renewing:
		return final && a.server == x.server
	case rebooting, rebinding:
		return final
	}
	return false
}

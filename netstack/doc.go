// Package netstack is a TCP/IP host inside the program: an Ethernet endpoint
// below, a dialer, a listener and a resolver above. With it a VPN session serves
// proxies without a kernel device and without privilege.
//
// # Theory of operation
//
// The stack is gVisor's, with one network interface. Inbound frames are checked,
// TCP segments that follow each other in a batch are glued to one packet (package
// offload, which has verified their checksums then), and packets are copied once
// into gVisor's pooled memory and delivered on the caller's goroutine; gVisor hands
// TCP segments on to its own processors, so delivery never waits for a connection.
// Outbound, TCP hands down super-segments of up to 64 KiB, which go into a bounded
// queue; Run cuts them into frames, batch by batch in one reused arena, and lends
// each batch to the session. So gVisor walks its stack once for some forty frames.
// Flows take turns in the queue. On a slow way a super-segment goes in several batches,
// and what small packets of other flows come meanwhile go between them.
//
// Delivery itself produces packets (ARP and ICMP replies, resets). Therefore the
// queue never blocks: when it is full its oldest packet is dropped and counted.
// What keeps it from filling is that connections stop accepting data from the
// application while more than a set amount waits, so a slow tunnel slows the
// senders down instead of losing their segments. A connection that writes little is
// not held up for the others.
//
// Programs that do not read let what arrives for them pile up, each by its receive
// buffer. The sum has a budget: as it comes near, connections begin with smaller buffers,
// and beyond most of it all are limited to what they hold, or a small part of what is left,
// so that their windows shut. It is added up only when enough has arrived to matter.
//
// Apply takes the whole desired configuration. Connections survive a reconnect
// of the tunnel, and an Apply with the same address, because neither the
// interface nor the address goes away. A changed address ends the connections
// bound to the old one at once with ErrAddressChanged, since nobody answers them
// any more. A deprecated IPv6 address carries its connections to their end and begins
// no new ones. Neighbours' questions (ARP, NDP) are answered here, and MLD says which
// groups they come by; routers' advertisements are read by whoever calls Apply.
//
// A name with several addresses is dialed as RFC 8305 says, in the order of RFC 6724 and
// with the families in turn. A family that was outrun though it came first is not tried
// first for a minute, so that half a network that is down costs one connection a moment,
// and not each.
//
// Names are resolved by servers behind the tunnel only. Nothing in this package
// asks the host's resolver or opens a socket of the host.
//
// # Limits
//
// IPv6 stays off the wire (no MLD, inbound dropped) until an IPv6 address is applied,
// and where the MTU is less than 1280. Of several routers the first is used. A connection keeps the gateway and the
// segment size it started with. Frames with a VLAN tag are dropped and counted.
//
// # Goroutines
//
// New starts gVisor's TCP processors; Close ends them and waits for it. Run works
// on its caller's goroutine alone. A dial starts goroutines that end with it, and so does
// adding up what is unread.
//
// # Errors
//
// Failures are *net.OpError around the matching system error (ECONNREFUSED,
// ECONNRESET, EACCES if a router prohibits it, EHOSTUNREACH, ENETUNREACH, ETIMEDOUT), os.ErrDeadlineExceeded,
// net.ErrClosed, ErrNoAddress or ErrAddressChanged; name resolution fails with
// *net.DNSError.
package netstack

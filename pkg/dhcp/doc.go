// Package dhcp gets an IPv4 address from a DHCP server that is reached by
// Ethernet frames alone.
//
// # Theory of operation
//
// A Client has no socket. It sends through the frame.Writer given to each call
// and hears through Filter, a Writer that stands in the inbound path: it takes
// out the replies meant for us and passes everything else on. Acquire runs from
// DISCOVER to ACK and returns a Lease; Keep then renews it until it is lost or
// the context ends; Release gives it back. One Client lives through many
// sessions. Because it remembers its lease, the next Acquire asks for the same
// address with a single REQUEST (INIT-REBOOT) and falls back to DISCOVER.
//
// A new session always has to ask again: a hub with the policy DHCPForce passes
// only addresses whose ACK it saw go to this very session. For the same reason
// a lease is not used without an answer, although RFC 2131 §3.2 would allow it.
//
// Replies are matched by transaction, hardware address and server. What does not
// match, does not parse or makes no sense (an address that is not unicast, a
// broadcast as server MAC) is counted and ignored, and the wait goes on.
//
// # Where this differs from RFC 2131, and why
//
//   - The first DISCOVER leaves at once and the first retransmission after about
//     one second, not four: the link is a tunnel to one server, not a building
//     that has just got its power back. The interval doubles up to 16 s.
//   - The broadcast flag is clear, as §4.1 asks of a client that can hear unicast
//     before it has an address: we see every frame to our MAC. From the third
//     DISCOVER on it is set, for a server or relay that cannot unicast.
//   - The ARP probe (RFC 5227) for a new address travels together with the
//     REQUEST, so that it costs no round trip of its own. After the ACK its owner
//     gets as long again as the server took, at least 50 ms and at most 300 ms,
//     and a second probe at half of that. An answer that comes later still, up to
//     two seconds, ends Keep. A hub's DHCPForce lets the probe pass, as its sender
//     is 0.0.0.0 (Cedar/Hub.c, StorePacket); if something else drops
//     it, silence means free. An address confirmed after INIT-REBOOT is not probed:
//     the server kept it for us.
//   - After a DECLINE or a NAK the next DISCOVER follows after the current
//     interval, which starts at a second and doubles, instead of a fixed ten; when
//     a remembered address is refused it follows at once.
//   - Unanswered renewals are repeated at half of the remaining time but at
//     least 5 s apart, not 60 s: short leases are common behind a VPN.
//   - The first offer is taken. Waiting for a better one would delay every start.
//
// # Limits
//
// A lease shorter than ten seconds counts as ten and T1 as at least five seconds,
// so no server can make us do nothing but renew. Sixteen replies are queued,
// the rest dropped. Of the lists in a reply the first 256 routes, 8 servers of a
// kind and 16 search domains are taken. A lease time that is missing or zero
// counts as one hour.
//
// Timers do not run while a computer sleeps. The session below does not survive
// that either, so a lease that ran out meanwhile is noticed by the next Acquire,
// which looks at the wall clock too.
//
// SecureNAT ignores clients whose host name begins with "securenat".
//
// # Goroutines
//
// None. Acquire and Keep run on their caller, one at a time. Filter runs on the
// goroutine that delivers frames and never blocks there.
package dhcp

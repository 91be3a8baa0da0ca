// Package autoconf configures IPv6 on a network that is reached by Ethernet frames alone:
// by what routers advertise (RFC 4861, 4862, 8106, 4191) and by DHCPv6 (RFC 8415), as
// their advertisements say.
//
// # Theory of operation
//
// A Client has no socket. Run sends through the frame.Writer given to it, for as long as
// one session lasts, and hears through Filter, a Writer that stands in the inbound path:
// it copies what routers and neighbours say, takes out DHCPv6 replies to us, and passes
// everything else on. What all of that comes to is a netcfg.Config of IPv6 addresses,
// routers, routes, name servers and MTU, which Run reports whenever it changes.
//
// Everything is one list of things with a time to act or to end: addresses under probe,
// solicitations to repeat, lifetimes, leases. Run sleeps until the next of them, or until
// a frame comes; each step is plain code on plain data, which a test can lead through
// days in a moment.
//
// First comes a link-local address, made and probed (DAD) while routers are solicited.
// A prefix that is for autonomous configuration gets an address of ours; the M flag of an
// advertisement has us ask DHCPv6 for addresses, the O flag for name servers only. Every
// address is probed for a second before it is used; one that somebody has already is
// replaced by another, three times at most, or declined.
//
// One Client lives through many sessions. On a new one everything remembered stays in
// use and is confirmed: addresses are probed again, routers solicited, a lease rebound.
// What no router has repeated a while after the first has spoken is dropped: this is
// another network. While no router speaks, lifetimes decide.
//
// # Addresses and privacy
//
// The part of an address that we choose is opaque (RFC 7217): a keyed hash of the prefix,
// not the MAC address. It is the same for as long as Config.Key is, so firewalls and
// address lists behind the VPN see one host, while on another prefix nothing connects the
// two. That rather than temporary addresses (RFC 8981), which change every day under long
// connections and make a member of a private network unrecognisable to it for no gain:
// the hub knows who we are anyway.
//
// # Where this differs from the RFCs, and why
//
//   - Solicitations are not delayed at the start, and repeat after 1, 2, 4 s and so on:
//     the link is a tunnel to one hub, not a building that has just got its power back.
//   - The first usable Advertise is requested. Waiting for a better one would delay
//     every start. Rapid commit is offered.
//   - On a new session a lease is rebound, not only confirmed: that answers the same
//     question, and brings what else may have changed.
//   - DHCPv6 without an answer is repeated every two minutes at the most, not every
//     hour: a person waits for it.
//   - Routers' wishes about hop limits and timers are ignored.
//
// # Limits
//
// Anybody on a link can pose as a router; this is no protection against that (a hub's
// policy RAFilter is). What one can do is bounded: 8 routers, 8 prefixes for addresses,
// 16 routes, 8 name servers and search domains each are kept, whichever came first;
// a valid lifetime is not cut below two hours by an advertisement (RFC 4862 section
// 5.5.3); 32 frames are queued and the rest dropped; an address that is always taken is
// given up. Prefixes other than /64 give no address. No extension headers are looked
// into, so nothing that was fragmented counts (RFC 6980).
//
// # Goroutines
//
// None. Run works on its caller. Filter runs on the goroutine that delivers frames and
// never blocks there.
package autoconf

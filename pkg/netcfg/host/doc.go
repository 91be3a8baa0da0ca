// Package host gives the machine's own network stack the configuration of the
// tunnel: address, routes, rules, marks, name servers. It speaks netlink and
// nftables; it runs no program, except resolvconf where that manages the name
// servers.
//
// # Theory of operation
//
// Everything we may put on a host is an item: an address, the state of the link, a
// route, a rule, a kernel setting, the table of marks, the name servers. One pass
// of reconciliation looks at the host, computes the items that should be there
// (want), finds those of ours that are there (mine), plans the steps from one to
// the other (plan) and takes them. The first three are pure and tested by tables.
// A step that fails undoes those before it, in reverse. The pass is repeated until
// it has nothing to do, since the kernel has side effects of its own: it removes
// routes with an address, addresses with another.
//
// So there is no difference between a first configuration, a renewal, a change of
// the lease, a new gateway of the underlay and the end of it all: Apply, Protect,
// Watch and Close change what is wanted, and reconcile. New items come before old
// ones go, and a route that only changes its gateway is replaced in one message.
//
// # What is put where
//
//	server's address   main table, by the gateway in use without us; /32 or /128
//	default gateway    main table, metric 50. Default routes of others stay; if one
//	                   of them has a better metric, two halves of the address space
//	                   (0.0.0.0/1 and 128.0.0.0/1) are added, which beat any metric
//	classless routes   main table, metric 50
//	policy table       the subnet, the default route and the classless routes, looked
//	                   up for packets from our address or with our mark
//	way back           a table with the routes that the main table has without us,
//	                   looked up for packets from every other address of the host, and
//	                   for replies in connections that came in by another interface.
//	                   They go out as before: someone logged in over ssh stays so
//	IPv6 block         our nftables table refuses what would leave beside the TAP,
//	                   but to the host's own subnets and in reply to others
//	IPv6 router        if the kernel hears of one on the TAP: ::/1 and 8000::/1 by it
//
// # How ours is told from others'
//
// Routes and rules carry the protocol number 94. A route that is not by the TAP
// has the TAP's interface index in its metric or in its table's number, so two
// instances never hold the same one and what a dead one left is known by an index
// that no interface has. The nftables table has the TAP's name in
// its own, and the kernel removes it when its owner's socket closes, in Linux 5.12
// and later. Settings and name servers have no room for a mark: they are written
// to a journal before they are changed, and put back only if they still are as we
// set them.
//
// # Marks
//
// Of each packet's and each connection's mark we use the bits in 0x0f000000 and
// leave all others as they are: Docker, kube-proxy (0xc000), Tailscale (0xff0000)
// and wg-quick (0xca6c) use lower ones. A connection that came by the TAP has one
// value, one that came by another interface a second one; replies get the value
// of their connection, before they are routed. Where a connection from before us came
// from is not known until it is heard from there again; if it was made to an address of
// another interface, its replies give it the second value. Seven instances fit.
//
// # Limits
//
// Linux only. The configuration is IPv4; IPv6 is the server's address, the kernel's
// own address configuration on the TAP, and the block. A multipath route of the
// underlay is followed by its first usable path. Rules of others that look at
// more than mark and destination are passed over when the way to the server is
// sought. A UDP service bound to no address answers from the tunnel's once that has
// the default route; only replies that name their source go out as before.
//
// # Goroutines
//
// Watch blocks on its caller's goroutine and has to run as long as the tunnel is
// configured, or the ways around it grow stale. None outlive a call. All methods of a Host may be called at once; they take turns.
//
// # Errors
//
// They say what was attempted on what. A configuration that would cut the host off
// from the server or from its own network is refused before anything is changed.
package host

// Package split decides what goes by the VPN and what goes out by this machine's own
// network, and dials accordingly.
//
// # Theory of operation
//
// Rules are two lists of targets, those that go direct and those that go by the VPN. A
// target is a prefix of addresses, a domain with everything below it, or "default",
// which is all that no other target speaks of. What is in neither list goes by the VPN.
// Of several targets that fit the most specific decides: the longest prefix of an
// address, the longest domain of a name.
//
// The decision is about the host as the client named it, before anything is resolved. A
// name is looked up where it is decided to go and nowhere else: a VPN name is never
// asked of this machine's resolver, a direct one never of the tunnel's, and what a name
// resolves to does not lead it the other way. Direct names are asked for as they are,
// since a search domain of this machine could make a VPN name of them. The names below
// in-addr.arpa and ip6.arpa, by which addresses are asked for their names, go where the
// address goes.
//
// # What is not direct by accident
//
// These go by the VPN unless a rule names them:
//
//   - names without a dot, which the search domains of the VPN may complete;
//   - what this machine's resolver might take for something else: names with other
//     characters than a host name has, or that end in a number, such as 127.1;
//   - addresses of private networks, of this machine and of its links, unless a prefix
//     inside the range in question is direct. Neither "default" nor 0.0.0.0/0 opens the
//     machine's loopback to those who may use a proxy, or what else it serves at the
//     addresses of its interfaces, whose range is the network that they have there.
//
// The same addresses are refused as the answer to a direct name (DNS rebinding: a
// stranger's name that says 127.0.0.1 or 192.168.0.1), and so is one that a -via-vpn
// prefix claims.
//
// # Limits
//
// What this machine's resolver asks others by itself, following an alias that leads from
// a direct name to a VPN name, is beyond what can be seen from here.
//
// # Goroutines
//
// None. Rules do not change and may be used by all at once.
package split

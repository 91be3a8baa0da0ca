// Package proxy serves SOCKS and HTTP clients and reaches their targets through
// a Dialer, which in this project dials inside the VPN tunnel.
//
// # Theory of operation
//
// Listen opens a listener and refuses one that strangers could use. A SOCKS5, an HTTP or
// a Mixed serves it: Serve accepts, one goroutine to a client, until its context
// ends or Shutdown or Close is called. A Mixed tells clients apart by their first byte,
// which no two of the protocols share, and hands those of HTTP to net/http together with
// what it has read of them.
//
// Each client says where it wants to go, in SOCKS5 (RFC 1928, with RFC 1929 user
// and password), SOCKS4 or 4a (no RFC; the user id is not looked at) or HTTP (RFC 9110,
// CONNECT and absolute-form requests). The name
// it gives is passed on unresolved: the Dialer resolves it where it dials, so
// that no question leaks to the host's resolver. While the Dialer works for longer
// than a moment, the client's connection is watched: a client that hangs up ends its
// dial. Bytes that it sends ahead of the answer are kept for the target.
//
// Then bytes flow both ways in a relay. The end of one direction is passed on as
// a half-close and the other goes on. A direction that is cut short resets the
// side that waited for it, so that a truncated stream never looks complete.
// Where the tunnel's connection knows how to copy (io.WriterTo, io.ReaderFrom) it
// is handed the client's connection as it was accepted; otherwise bytes go
// through pooled buffers.
//
// BIND listens in the tunnel, tells the client where, and relays the first connection
// from the peer that the client named; others are turned away and it goes on waiting.
// UDP ASSOCIATE gives a client two sockets, one near it and one in the tunnel, both
// unconnected: whom the client writes to and who writes to the client need not be the
// same (endpoint-independent mapping and filtering, RFC 4787), and each datagram has its
// own peer's address with it. A User's rules count for each, and what is beyond its rate
// is dropped. The near socket takes datagrams from the host of the
// client's connection alone, and of that from the port that was announced or came first.
// A datagram to a name waits for the name to be resolved in the tunnel, which holds up no
// other; answers are kept for the association. What cannot go on is dropped and counted by
// Drop, above all what the tunnel is too slow for. The association ends with the client's
// connection, or when it is idle. What is for Config.Beside leaves by other sockets, opened
// with the first such datagram, and what comes there comes to the client too.
//
// Absolute-form requests go through net/http's own server, ReverseProxy and
// Transport, which settle framing: requests, also to several hosts on one connection,
// are parsed and written anew. The framing of what a client sends is followed beside
// net/http, which is given one request at a time: one that could be read in two ways, or of
// which the two have not the same idea, is refused, and the connection ends. Upgrades
// (WebSocket) are relayed after the 101.
//
// Inside TLS there is HTTP/1.1 or HTTP/2. In that a CONNECT is a stream among others, and
// lasts as long as its handler; a target that ends its half ends the stream, as net/http
// does not end an answer before its request.
//
// An Auth may know several users. What a User may reach is asked before a name is
// resolved, and again for each of its addresses before that is dialed, so that a name
// is no way around a rule. What nothing behind the tunnel has is refused to all: the
// addresses of loopback, of a link, of groups, and the proxy's own.
//
// # What goes on the wire
//
// A failed dial is answered by its cause. The first row that applies counts, so
// when several addresses of a name were tried, the most telling error wins.
//
//	cause                                SOCKS5 reply                  HTTP status
//	name not resolved                    4 host unreachable            502
//	connection refused, reset            5 connection refused          502
//	not permitted                        2 not allowed by ruleset      403
//	the proxy itself                     2 not allowed by ruleset      508
//	the user's limit of connections      2 not allowed by ruleset      429
//	timed out                            6 TTL expired                 504
//	host unreachable                     4 host unreachable            502
//	network unreachable, tunnel down     3 network unreachable         502
//	address family not usable            8 address type not supported  502
//	anything else                        1 general failure             502
//
// SOCKS5 has no code for a timeout; 6 is what Tor answers, and curl and ssh print
// any code's text. A malformed name or port is 1 (HTTP: 400). A command that is unknown or
// not to be had, such as UDP ASSOCIATE for a client without an IP address, is 7, an
// unknown address type 8, no common authentication method 0xff. A wrong password is status 1 of RFC 1929 (HTTP: 407, Basic). A
// client that speaks another version is disconnected; one that speaks HTTP to a
// SOCKS port is told so, one that speaks TLS to a mixed port gets the alert
// handshake_failure.
//
// The answers to BIND have the address at which the peer is awaited, then the peer's; that
// to UDP ASSOCIATE has where the relay takes datagrams. A peer that does not come within
// BindTimeout is a timeout, code 6.
//
// SOCKS4 has one code for all that fails, 91. Where a password is asked for it is refused
// with 93, as it cannot carry one.
//
// The HTTP proxy forwards end-to-end headers as they are. It removes hop-by-hop
// ones, those that Connection lists, and every Proxy- header in both directions,
// and adds none of Via, Forwarded, X-Forwarded-For or User-Agent, unless Announce says
// so. Trailers go on both ways, announced or not, but for fields that have no place
// there; an HTTP/2 client has to announce its own (net/http drops others). A GET of
// /proxy.pac from the proxy itself is answered, without a login, by what Inside says. An
// https:// URL in absolute form is answered 400: the proxy would have to judge the target's
// certificate for the client, who should say CONNECT. So is an origin-form request, with
// a hint. Proxy variables of the environment are never used. After a
// CONNECT that failed the connection is closed, as what follows may be meant for
// the target.
//
// # Limits
//
// At most MaxConns clients of one server at a time; more are closed at once and
// counted. A handshake, or the header of a request, has HandshakeTimeout in total
// however slowly its bytes come, and is bounded in size: about 1 KiB for SOCKS,
// 64 KiB for HTTP. A dial has DialTimeout. A relay has no time limit while both
// directions are open, an idle ssh session being a good one; once one has ended,
// the other may be silent for HalfCloseTimeout; so may a client amid the body of a
// request (HTTP: 408). The body of a request that is not passed on has HandshakeTimeout.
// An idle HTTP connection, a client's or one of at most 64 to targets, is closed after
// IdleTimeout. A BIND has BindTimeout, an association without datagrams AssociateTimeout.
// Its datagrams may be as long as UDP's, 65507 bytes with the header; fragments (RFC 1928
// section 7) are dropped.
// For lookups of its names 64 datagrams may wait, and 16 lookups be under way. A client
// that closes its half after an absolute-form request counts as gone (net/http
// cannot tell); after SOCKS5 or CONNECT it may, once it has sent bytes ahead.
//
// # Goroutines
//
// Serve owns all goroutines and connections it starts and returns when they have
// ended, except that those of net/http's Transport end just after the connection
// they read. A relay is two goroutines of its own, whose stacks no handshake or
// dial has grown; an idle one holds no large buffer. An association is three, and one for
// each lookup; a datagram costs none, and no allocation.
//
// # Errors
//
// Serve returns the context's error or net.ErrClosed. A failure to accept, such as
// a lack of file descriptors, is logged, and accepting goes on after a pause. What
// goes wrong for one client is answered to that client, counted by Reason, and
// logged at level Debug; no password is logged. A failed login is a warning, once a minute.
package proxy

// Package udpaccel is SoftEther's UDP acceleration: a path of datagrams beside a
// session's TCP connections, which stay up. Client and server do the same things, so one
// Path serves for either.
//
// # Theory of operation
//
// A datagram carries one Ethernet frame, or none: a keep-alive. Before the frame stand
// the receiver's cookie, the sender's clock in milliseconds, and the newest of the
// receiver's clock that has come:
//
//	nonce | cookie 4 | my tick 8 | your tick 8 | size 2 | flag 1 | frame | padding | check
//	      └────────────────────── encrypted ──────────────────────────────────────┘
//
// Keys, cookies, version and ports are agreed on at login. Version 2 is
// ChaCha20-Poly1305; version 1 is RC4 with a key for each datagram and zeros for a
// check, which keeps strangers out but not somebody who changes bits; in a session
// without encryption datagrams are plain.
//
// Each side sends keep-alives, to all addresses where the peer may be until it is heard.
// Then it sends to where the newest datagram came from, so the path follows a peer that
// moves and a NAT that forgets. An echo of our own clock says that the peer hears us: that
// is life, and by the protocol what has been alive for ten seconds without a break may
// carry data, both ways as each side decides for itself. A silence ends it at once. There
// is no acknowledgement, no order, no retransmission, and no connection: a Path has no
// error that ends a session.
//
// # Wanting
//
// A server that is told that it is heard moves all its frames to UDP after those ten
// seconds, whatever that costs. The client who does not want it keeps its mouth shut:
// until Want(true) "your tick" is 0 in all it sends, while its own echoes keep it informed
// of how good the path is. When UDP is wanted no more it falls silent until the server must
// have noticed, and then speaks too rarely to be trusted, until the last echo is out of the
// protocol's window.
//
// # Sizes
//
// A frame goes by one packet or not at all: nothing that is longer than what PPPoE leaves
// (1454 bytes of IP), or the kernel knows to be too long for the way, is sent. The server
// has the connections inside the tunnel agree on segments that fit, in both directions,
// from the login on: 1309 bytes over IPv4, which is 12 less than fit by version 2. It does so
// whether the path is used or not, so TCP has a tenth more frames to carry, and who does not
// need UDP had better not ask for it. For us to rewrite the same handshakes would change
// nothing. What is too long all the same, such as of connections from before that login, the
// session sends by TCP, and has its sender told.
//
// # Speed
//
// Frames are sealed one behind the other into one buffer. A little padding, which the
// protocol allows to be of any length, makes datagrams of nearly one size exactly so; the
// kernel is given such a run as a whole and cuts it (UDP_SEGMENT), several runs in one
// system call (sendmmsg). Inbound up to 64 datagrams are taken by one call (recvmmsg),
// decrypted in place and lent to the destination as one batch. Nothing is allocated for
// a frame. On other systems than Linux there is one call for each datagram.
//
// On two cores, both ends over loopback (BenchmarkLoopback, frames of 1323 bytes): 316
// MB/s with runs, 113 MB/s one by one.
//
// A peer that sends datagrams one by one wakes the reader for each. So the reader of a fast
// stream rests once it has been woken, that some may gather (see package pace); and no system
// call is announced to the scheduler. Both together took a download of eight flows from
// vpnserver, on two busy cores, from 4.6 to 1.9 CPU seconds per GB.
//
// # Bad input
//
// Whatever is not from the peer, has come before, is too old, too long or too short is
// dropped and counted by its reason. That it has come before is known of the last some
// thousand datagrams (see nonces); the protocol itself asks only that they are not older
// than 30 s.
//
// # Concurrency
//
// Run reads in one goroutine and sends keep-alives from another. WriteFrames works on its
// caller, one at a time.
package udpaccel

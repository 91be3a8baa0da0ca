// Package hub is the server's side of the SoftEther protocol, small: an embedded
// virtual hub for the demo, for tests, and for being wrong on purpose.
//
// # Theory of operation
//
// A Hub is a learning Ethernet switch. Its ports are sessions, which arrive over
// TLS through Serve, and local endpoints attached with Plug, such as a gateway
// host. Each frame goes to the port where its destination last spoke, to all
// ports if that is unknown or a group, and never back where it came from.
//
//	conn ──parse in place──► lan.forward ──append──► port queue ──► conn's writer
//	endpoint.Run ──────────► lan.forward ──append──► port queue ──► endpoint.WriteFrames
//
// A batch that was read together is switched together: one look at the table for
// each run of frames between the same two stations, and one append under the
// receiving port's lock. The queue holds frames in the form they travel in, so a
// frame is copied once between two sessions, and a writer sends all that waits
// with one TLS write. A port that does not take its frames loses them when its
// queue is full; nobody else waits for it.
//
// A session survives the loss of its connections for the hub's time-out. Within
// it a client can attach again with the session key, and it may have several
// connections at once: whichever is free takes the next batch, so frames may be
// reordered between connections, but never within one. (Cedar/Protocol.c,
// ServerAccept; Cedar/Connection.c, ConnectionSend)
//
// # Faults
//
// Inject makes the hub misbehave: refuse, stall, cut, corrupt, babble. A Fault
// counts its strikes, so that a test can show that it happened.
//
// # Limits
//
// Sessions, connections, requests before login, their sizes and their time, the
// stations of a port and the bytes of its queue are all bounded. The hub offers
// one virtual hub and no policy enforcement; UDP acceleration only where Config.UDP says so; without encryption only where
// Config says so, as that makes it read byte for byte. What a hostile client sends ends its own connection at most.
//
// # Goroutines
//
// Serve owns one goroutine for each connection and two more in the data phase;
// Plug owns two. None outlives the call that started it. All methods of Hub may
// be called from several goroutines.
//
// # Errors
//
// Serve and Plug return why they stopped: the context's error, net.ErrClosed
// after Close, or the listener's or endpoint's failure. What goes wrong on one
// connection is told to the log.
package hub

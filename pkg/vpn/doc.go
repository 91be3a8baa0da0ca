// Package vpn is a SoftEther VPN for Go programs: dial a hub, and have connections,
// listeners and names in it, without root, network interface or helper.
//
//	tunnel, err := vpn.Dial(ctx, vpn.Config{Session: session.Config{
//		Host: "vpn.example.com", Hub: "VPN", User: "alice", Password: password,
//	}})
//	if err != nil {
//		return err
//	}
//	defer tunnel.Close()
//	resp, err := tunnel.HTTPClient().Get("http://files.corp/")
//
// The module's path names no host, so go get cannot fetch it. Clone it beside your own
// module, put this into your go.mod, and run go mod tidy:
//
//	require softether-go v0.0.0
//	replace softether-go => ../softether-go
//
// # Theory of operation
//
// Two halves are assembled here, and the command softether-go is assembled of the same.
//
// A Line is the life of a VPN on an End, the near end of the virtual cable: a way to
// the server beside the tunnel, a client that keeps a session up and asks for addresses,
// counters, and a queue before the tunnel unless the End has its own. The End may be a
// network interface of the machine, a port of a bridge, or a network of a namespace's.
//
// A Tunnel is a Line on an End of ours: a network stack in this process. Its methods
// are what package net has for the machine's own. What they open lives as long as it
// likes: when the session is lost, the Line makes another, and connections
// wait. Only an address that changes ends those that are bound to it.
//
//	Dial:   Open ─► Run in the background ─► wait for the first address
//	Open:   stack ─► New(Config, stack)
//	Run:    client ∥ what watches the network ∥ what watches the End
//
// # Trust and login
//
// The zero Trust believes the certification authorities of the system, for the host's
// name. SoftEther servers mostly have certificates of their own making: Trust.Pins
// names them, Trust.Roots the authority, Trust.Known remembers the first, and
// Trust.Insecure, which no program should ship with, believes anybody.
//
// How the user logs in follows from what Session has: an Identity, a Password or
// PasswordHash, or nothing, which is an anonymous user. Only the plain password, as
// RADIUS and domains want it, is asked for by Auth.
//
// # Ready, lost, ended
//
// Dial returns when there is an address, so what is opened next works. Later, Done is
// closed when the VPN has ended for good, and Err says why: connections are aborted then,
// since their address is gone. A session that is lost is no end: while there is none,
// connections that exist wait, dials fail when their context ends, and listeners stay.
//
// An IPv6 address comes later than that of IPv4, if at all; AwaitIPv6 waits for it.
//
// # Close
//
// Close is the reverse of Dial: all that was opened ends with net.ErrClosed, connections
// by a reset, then the lease is released, the session ends, and the stack. What must be
// delivered should have been: close your connections first, having read the peer's end of
// stream. After Close nothing that the tunnel started is left running.
//
// # Errors
//
// What Dial returns and Err says holds a *session.Error, for errors.As, if the server
// or the way to it is the matter; a wire.Code in it is the server's own reason, and its
// Advice says whether another attempt could help, which in Err it never does. Those of
// connections and names are what package net has for the like: *net.OpError around
// system errors, *net.DNSError. Nothing here holds a secret.
//
// # Concurrency
//
// All methods may be called from several goroutines at once, Run once in all.
package vpn

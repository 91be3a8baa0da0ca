// Package privnet gives one program a network of its own, as an ordinary user: a
// network namespace with a TAP in it whose frames a process outside exchanges. It
// works on Linux only.
//
// # Theory of operation
//
// There are up to four processes, three of them of this program:
//
//	front      what the user started. It starts the others, passes signals on and ends
//	           with the command's exit code. The shell's job control sees this one
//	init       the first process in fresh user, network and mount namespaces
//	command    what the user wants to run; init's child, in the front's process group
//	VPN        holds the session with the server; in no namespace of ours. It may serve
//	           several fronts, each with a TAP
//
// Init makes the TAP, hands its descriptor to the VPN process and closes its own. So the
// session, its password and its socket stay outside, and the namespace has
// no way out but frames that the VPN process carries: while that reconnects they
// wait and are dropped, and if it dies the interface is gone. No rule and no route of
// the host is involved, so none can fail.
//
// Two sockets of messages join the processes. On the link init and the VPN process
// talk: first the descriptor of the TAP, then configurations to apply (by netlink, with
// init's capabilities over its namespace) and connections to open from within. On the
// front's socket init tells what becomes of the command and is told of signals. The end
// of either socket says that the other process has ended, however it did:
//
//	front gone    everything in the namespace is killed, as if the command itself
//	              had been killed
//	VPN gone      the command goes on, without a network
//	init gone     the kernel kills the command
//
// # As if started directly
//
// The command has the user's ids, environment, files, directory, terminal, process
// group and inherited descriptors. Signals of the terminal reach it from the kernel, so
// the other processes ignore those; when it stops, init tells the front, which
// stops too, for the shell to notice. It has no capability, but Config.Capture's. Init
// adopts the processes that it leaves behind, and the namespace ends with the last one.
//
// Only the user's own ids are mapped: other users' files show the owner nobody, and
// supplementary groups count but show as nogroup. Set-user-id programs do not work
// inside. Someone who is root with all capabilities gets no user namespace, so as
// not to lose them.
//
// # A namespace of somebody else's
//
// With Enters init joins a namespace that is there already, by nsenter(1). It makes the
// interface, runs no command, and leaves files as they are.
//
// # Name resolution
//
// /etc/resolv.conf is a private file that has the name servers of the
// configuration. /etc/nsswitch.conf asks for hosts in files and DNS only, and what would
// resolve outside (systemd-resolved, nscd, Avahi, the system's D-Bus) is hidden. When the
// host replaces its own file, which takes what is mounted on it away, it is mounted again.
//
// # Errors and goroutines
//
// Start's errors are one line; those that wrap ErrForbidden name a setting of the host and
// the remedy. Each Socket and Link has at most one goroutine, which ends with Close; init
// has one for each socket, as long as it lives.
//
// # Limits
//
// A program that asks a daemon outside to connect for it, over a socket in the file
// system such as Docker's, is not held back by a network namespace.
package privnet

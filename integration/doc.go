// Package integration proves the client against a real SoftEther server.
//
// # Theory of operation
//
// Every test builds a world of its own: a namespace with Debian's vpnserver in
// it, one with the client under test, and, behind the hub, one with a LAN (DHCP,
// DNS, web). Nothing is shared between two worlds, so tests run side by side and
// all of them use the same addresses. README.md draws the picture.
//
// The client under test is the shipped binary, built once per run, started as an
// unprivileged user and judged only by what a person could see: its proxies, its
// exit code, its output, and what the server and the LAN say of it.
//
// What stands outside the kernel (web site, fault middlebox) runs inside the test
// process, on sockets opened in the namespace they belong to: a socket stays in
// the namespace of the thread that made it.
//
// A fault test proves that the fault occurred before it asks for recovery.
//
// # Limits
//
// Linux and root only. A missing tool skips a test with the remedy, and fails it
// where CI=true. The tests make and remove only namespaces, files and processes
// of their own; what a killed run left behind is removed by the next one.
//
// # Goroutines
//
// Threads that entered a namespace end with their task and are never reused.
package integration

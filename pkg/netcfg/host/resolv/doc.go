// Package resolv makes a host ask the tunnel's name servers, and puts back what
// was before, exactly.
//
// # Theory of operation
//
// Linux has no one place for name servers. Inspect looks at who manages them
// here, decide chooses a way (pure, tested by a table), and a Manager goes it:
//
//	resolved    systemd-resolved answers on D-Bus and etc/resolv.conf leads to it:
//	            the TAP gets its servers there. They go with the TAP.
//	resolvconf  the program of that name made etc/resolv.conf: it is given a record.
//	replace     etc/resolv.conf is an entry in its directory: it is kept under
//	            another name, and a file of ours takes its place in one step.
//	rewrite     etc/resolv.conf is a mount point, as in containers, or its directory
//	            cannot be written: its text is exchanged, and kept in ours as comments.
//
// A kept file is resolv.conf.softether-go.TAP in the same directory. It is the very
// file, or symbolic link, so that it comes back with its owner, mode and times. A text
// that is kept in ours needs no other file: several containers may have one mounted
// that outlives them, with nothing else in common. A file of ours says so in its first
// line, by which a later run knows what a killed one left, also after a power cut.
//
// # Several instances
//
// The last one to come is asked. One that leaves while its file is kept by
// another hands its own kept file to that one, so that the original comes back in
// the end, in whatever order they leave. Kept texts nest likewise.
//
// # Others who write the file
//
// If etc/resolv.conf is not ours any more, whoever wrote it knows better: it stays,
// and what we kept is removed.
//
// # Limits
//
// Three servers, as many as the C library asks. Programs that ask systemd-resolved
// while etc/resolv.conf leads elsewhere are not served.
package resolv

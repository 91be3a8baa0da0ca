package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
)

// firstPassed is the first descriptor that a service manager passes (sd_listen_fds(3)).
const firstPassed = 3

// A passed socket is one that was open before we began.
type passed struct {
	name    string // FileDescriptorName= of its unit
	fd      int
	claimed bool // some setting asks for it in particular
	used    bool
}

// passedSockets returns what a service manager passes to this process, by the protocol of
// sd_listen_fds(3). It is for us, not for programs that we start.
func passedSockets() (all []passed) {
	pid, number, names := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_FDNAMES")
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"} {
		_ = os.Unsetenv(name) // which fails for no name of these
	}
	n, err := strconv.Atoi(number)
	if err != nil || pid != strconv.Itoa(os.Getpid()) {
		return nil
	}
	called := strings.Split(names, ":")
	for i := range n {
		p := passed{fd: firstPassed + i, name: "unknown"} // the name that the protocol has for none
		if i < len(called) && called[i] != "" {
			p.name = called[i]
		}
		all = append(all, p)
	}
	return all
}

// inherited opens listeners of sockets that are open already. It is for one goroutine.
type inherited struct {
	sockets []passed
}

// newInherited keeps those that one of the addresses asks for in particular from who asks
// for all.
func newInherited(sockets []passed, addresses []string) inherited {
	for i := range sockets {
		p := &sockets[i]
		p.claimed = slices.Contains(addresses, "systemd:"+p.name) || slices.Contains(addresses, "fd:"+strconv.Itoa(p.fd))
	}
	return inherited{sockets}
}

// byName returns the listeners of a name; without a name, all that no other setting asks
// for.
func (in *inherited) byName(name string) (lns []net.Listener, err error) {
	for i := range in.sockets {
		p := &in.sockets[i]
		if p.used || name == "" && p.claimed || name != "" && p.name != name {
			continue
		}
		ln, err := listenerOf(p.fd)
		if err != nil {
			closeAll(lns)
			return nil, fmt.Errorf("the socket that systemd passes as %s: %w", p.name, err)
		}
		p.used = true
		lns = append(lns, ln)
	}
	if len(lns) > 0 {
		return lns, nil
	}
	if len(in.sockets) == 0 {
		return nil, errors.New("systemd passes no socket: is there a .socket unit with the name of this service, and did that start it?")
	}
	var names []string
	for _, p := range in.sockets {
		names = append(names, p.name)
	}
	slices.Sort(names)
	return nil, fmt.Errorf("systemd passes no socket called %q that is not used yet; there are: %s (FileDescriptorName= in the .socket unit says another)",
		name, strings.Join(slices.Compact(names), ", "))
}

// byNumber returns the listener of a descriptor.
func (in *inherited) byNumber(fd int) (net.Listener, error) {
	for i := range in.sockets {
		if in.sockets[i].fd == fd {
			in.sockets[i].used = true
		}
	}
	ln, err := listenerOf(fd)
	if err != nil {
		return nil, fmt.Errorf("the descriptor %d that is passed: %w", fd, err)
	}
	return ln, nil
}

// unused names what was passed for nothing.
func (in *inherited) unused() (names []string) {
	for _, p := range in.sockets {
		if !p.used {
			names = append(names, p.name)
		}
	}
	return names
}

// listenerOf makes a listener of a descriptor, which is the listener's from then on, or
// closed: a File that is forgotten closes its number when nobody expects it, and it may be
// another's by then.
func listenerOf(fd int) (net.Listener, error) {
	f := os.NewFile(uintptr(fd), "socket "+strconv.Itoa(fd))
	if f == nil {
		return nil, errors.New("is none")
	}
	ln, err := net.FileListener(f) // a duplicate that programs we start do not get
	f.Close()
	if err != nil {
		return nil, fmt.Errorf("it is no socket that listens: %w", err)
	}
	return ln, nil
}

func closeAll(lns []net.Listener) {
	for _, ln := range lns {
		ln.Close()
	}
}

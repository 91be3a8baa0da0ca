package users

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// user is an entry and what is counted of it, which outlives changes of the entry.
type user struct {
	*entry
	account *account
}

// Permits returns nil if the user may reach the port of a host. host is the name that was
// asked for, or empty. addr is one of its addresses; while that is invalid, nil means
// that the name may be resolved to see.
func (u *user) Permits(host string, addr netip.Addr, port uint16) error {
	if len(u.rules) == 0 {
		return nil
	}
	name := strings.TrimSuffix(strings.ToLower(host), ".")
	for _, r := range u.rules {
		if !r.hasPort(port) {
			continue
		}
		if r.prefix.IsValid() && !addr.IsValid() {
			return nil // it depends
		}
		if !r.fits(name, addr) {
			continue
		}
		if r.allow {
			return nil
		}
		return u.denied(host, addr, port)
	}
	return u.denied(host, addr, port)
}

func (u *user) denied(host string, addr netip.Addr, port uint16) error {
	if host == "" {
		host = addr.String()
	}
	return fmt.Errorf("the rules of %s do not allow %s", u.name, net.JoinHostPort(host, strconv.Itoa(int(port))))
}

func (r rule) hasPort(port uint16) bool {
	for _, p := range r.ports {
		if p.from <= port && port <= p.to {
			return true
		}
	}
	return len(r.ports) == 0
}

// fits reports whether the rule is about a destination.
func (r rule) fits(name string, addr netip.Addr) bool {
	switch {
	case r.prefix.IsValid():
		return r.prefix.Contains(addr.Unmap())
	case r.name == "":
		return true
	case name == r.name:
		return true
	}
	return r.below && strings.HasSuffix(name, "."+r.name)
}

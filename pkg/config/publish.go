package config

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// A Publish leads a port of this machine to one in the network of a command.
type Publish struct {
	Network string         // tcp or udp
	Listen  netip.AddrPort // on this machine
	Port    uint16         // inside
}

// String returns it as -publish takes it.
func (p Publish) String() string {
	s := ""
	if p.Network == "udp" {
		s = "udp/"
	}
	return s + p.Listen.String() + ":" + strconv.Itoa(int(p.Port))
}

// parsePublish takes [udp/][ADDRESS:]PORT:PORT, an IPv6 address in brackets.
func parsePublish(s string) (Publish, error) {
	bad := func() (Publish, error) {
		return Publish{}, fmt.Errorf("%s is not a port here and one inside: give one like 8080:80, 0.0.0.0:8080:80 or udp/5353:53", quote(s))
	}
	p := Publish{Network: "tcp"}
	text := s
	if network, rest, ok := strings.Cut(s, "/"); ok {
		if network != "tcp" && network != "udp" {
			return bad()
		}
		p.Network, text = network, rest
	}
	i := strings.LastIndexByte(text, ':')
	if i < 0 {
		return bad()
	}
	inside, err := parsePort(text[i+1:])
	if err != nil {
		return bad()
	}
	p.Port = inside
	host, port := "127.0.0.1", text[:i]
	if strings.Contains(port, ":") {
		if host, port, err = net.SplitHostPort(port); err != nil {
			return bad()
		}
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return bad()
	}
	addr, err := netip.ParseAddr(host)
	if err != nil || addr.IsMulticast() {
		return bad()
	}
	p.Listen = netip.AddrPortFrom(addr.Unmap(), uint16(number))
	return p, nil
}

// SecretVariables returns the names of the variables that hold secrets, which other
// programs have no business with.
func SecretVariables() (names []string) {
	for _, o := range options {
		if o.value.secret || o.name == "proxy" { // its URL may have a password
			names = append(names, envName(o.name))
		}
	}
	return names
}

// parseShare takes the name of a shared session, which becomes that of a file.
func parseShare(s string) (string, error) {
	const longest = 40 // a socket's path has 107 bytes at most (unix(7))
	bad := strings.ContainsFunc(s, func(r rune) bool { return notInDomain(r) })
	if s == "" || len(s) > longest || bad {
		return "", fmt.Errorf("%s is not a name of a session: give up to %d letters, digits, dashes and underscores", quote(s), longest)
	}
	return s, nil
}

// checkAttach finds what is about a session of our own, if another's is to be used.
func (c Config) checkAttach() (ps []problem) {
	const text = "is about a session of this command's own, but -attach uses another's: drop one of the two"
	if c.Server.Host != "" {
		ps = append(ps, problem{flag: "host", text: text})
	}
	if c.Auth.User != "" {
		ps = append(ps, problem{flag: "user", text: text})
	}
	return ps
}

// Enters reports whether there is a namespace already, and no command.
func (r Run) Enters() bool { return r.PID != 0 || r.NetNS != "" }

// parsePID takes the number of a process, or 0 for none.
func parsePID(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 22) // PID_MAX_LIMIT is 2^22 (proc_sys_kernel(5))
	if err != nil {
		return 0, fmt.Errorf("%s is not the number of a process", quote(s))
	}
	return int(n), nil
}

// check finds names and ports that contradict each other.
func (r Run) check() (ps []problem) {
	if r.ProxyEnv && (r.Share+r.Attach != "" || len(r.Publish) > 0 || r.Capture) {
		ps = append(ps, problem{flag: "proxy-env", text: "gives the command no network that -share, -attach, -publish or -capture could be about: drop one"})
	}
	if r.PID != 0 && r.NetNS != "" {
		ps = append(ps, problem{flag: "netns", text: "names a namespace, and so does -pid: drop one of the two"})
	}
	if r.Enters() && (r.ProxyEnv || r.Capture) {
		ps = append(ps, problem{flag: "pid", text: "runs no command that -proxy-env or -capture could be about: drop one"})
	}
	if r.Share != "" && r.Attach != "" {
		ps = append(ps, problem{flag: "attach", text: "uses the session of another command, which -share does too if there is one: drop one of the two"})
	}
	for i, p := range r.Publish {
		for _, q := range r.Publish[:i] {
			if p.Network == q.Network && overlap(p.Listen.String(), q.Listen.String()) {
				ps = append(ps, problem{flag: "publish", text: fmt.Sprintf("%v and %v want the same port of this machine: give another", q, p)})
			}
		}
	}
	return ps
}

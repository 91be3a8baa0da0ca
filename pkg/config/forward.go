package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Forwards are the ports that lead into the VPN and out of it, and where its names can be
// asked for.
type Forwards struct {
	Local  []LocalForward
	Remote []RemoteForward
	DNS    []ListenAddress
}

func (f Forwards) none() bool { return len(f.Local)+len(f.Remote)+len(f.DNS) == 0 }

// A Forward leads a port to a host of another network.
type Forward struct {
	Network     string // tcp or udp
	ProxyHeader bool   // tell the target who the client is, by the PROXY protocol
	Listen      string // ADDRESS:PORT, or in the VPN :PORT, or a path
	Target      string // HOST:PORT, or a path on this machine
}

// A LocalForward leads from this machine into the VPN.
type LocalForward struct{ Forward }

// A RemoteForward leads from our address in the VPN to this machine.
type RemoteForward struct{ Forward }

// String returns it as -L takes it.
func (f LocalForward) String() string { return f.text(f.Listen) }

// String returns it as -R takes it.
func (f RemoteForward) String() string { return f.text(strings.TrimPrefix(f.Listen, ":")) }

func (f Forward) text(listen string) string {
	s := listen + ":" + f.Target
	if f.ProxyHeader {
		s = "proxyv2/" + s
	}
	if f.Network == "udp" {
		s = "udp/" + s
	}
	return s
}

// cutKinds takes the words before a forward that say what kind it is.
func (f *Forward) cutKinds(s string) string {
	f.Network = "tcp"
	for {
		word, rest, ok := strings.Cut(s, "/")
		switch {
		case ok && (word == "tcp" || word == "udp"):
			f.Network = word
		case ok && word == "proxyv2":
			f.ProxyHeader = true
		default:
			return s
		}
		s = rest
	}
}

// parseLocalForward takes [udp/][proxyv2/][ADDRESS:]PORT:HOST:PORT, or a path in place of
// address and port.
func parseLocalForward(s string) (LocalForward, error) {
	var f LocalForward
	bad := func(why string) (LocalForward, error) {
		return LocalForward{}, fmt.Errorf("%s %s: give one like 8080:web.corp:80, 0.0.0.0:8080:web.corp:80, udp/5353:10.0.0.1:53 or /run/db.sock:db.corp:5432",
			quote(s), why)
	}
	text := f.cutKinds(s)
	listen, host, port, ok := cutTarget(text)
	if !ok {
		return bad("does not say from where to where")
	}
	var err error
	if f.Target, err = parseForwardTarget(host, port); err != nil {
		return bad("leads nowhere: " + err.Error())
	}
	if a, err := netip.ParseAddr(host); host == "localhost" || err == nil && (a.IsLoopback() || a.IsUnspecified()) {
		return bad("leads to this machine, not into the VPN")
	}
	if isPath(listen) && f.Network == "tcp" {
		f.Listen = listen
		return f, nil
	}
	at, err := parseListenAt(listen)
	if err != nil {
		return bad(fmt.Sprintf("begins with %s, which is no address and port", quote(listen)))
	}
	f.Listen = at.String()
	return f, nil
}

// parseRemoteForward takes [udp/][proxyv2/]PORT:HOST:PORT, or a path in place of the host
// and port.
func parseRemoteForward(s string) (RemoteForward, error) {
	var f RemoteForward
	bad := func(why string) (RemoteForward, error) {
		return RemoteForward{}, fmt.Errorf("%s %s: give one like 8080:localhost:80, udp/53:127.0.0.1:5353 or 5432:/run/db.sock", quote(s), why)
	}
	listen, target, ok := strings.Cut(f.cutKinds(s), ":")
	port, err := parsePort(listen)
	if !ok || err != nil {
		return bad("does not begin with a port of ours in the VPN")
	}
	f.Listen = ":" + strconv.Itoa(int(port))
	if isPath(target) && f.Network == "tcp" {
		f.Target = target
		return f, nil
	}
	rest, host, targetPort, ok := cutTarget(":" + target)
	if !ok || rest != "" {
		return bad("does not lead to a host and port")
	}
	if f.Target, err = parseForwardTarget(host, targetPort); err != nil {
		return bad("leads nowhere: " + err.Error())
	}
	return f, nil
}

func isPath(s string) bool {
	return (strings.HasPrefix(s, "/") || strings.HasPrefix(s, "./")) && !strings.ContainsAny(s, ",\x00")
}

// cutTarget takes HOST:PORT off the end, an IPv6 address in brackets.
func cutTarget(s string) (rest, host, port string, ok bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return "", "", "", false
	}
	rest, port = s[:i], s[i+1:]
	cut := strings.LastIndexByte(rest, ':')
	if strings.HasSuffix(rest, "]") {
		cut = strings.LastIndex(rest, ":[")
	}
	if cut < 0 {
		return "", "", "", false
	}
	host = rest[cut+1:]
	if strings.HasPrefix(host, "[") {
		host = strings.TrimSuffix(host[1:], "]")
		if a, err := netip.ParseAddr(host); err != nil || !a.Is6() {
			return "", "", "", false
		}
	}
	return rest[:cut], host, port, true
}

func parseForwardTarget(host, port string) (string, error) {
	n, err := parsePort(port)
	if err != nil {
		return "", err
	}
	if a, err := netip.ParseAddr(host); err != nil {
		if err := checkDomain(strings.TrimSuffix(host, ".")); err != nil {
			return "", fmt.Errorf("%s is no host: %w", quote(host), err)
		}
	} else if a.Zone() != "" {
		return "", fmt.Errorf("%s has a zone", quote(host))
	}
	return net.JoinHostPort(host, strconv.Itoa(int(n))), nil
}

// A ListenAddress is where this machine listens.
type ListenAddress struct{ netip.AddrPort }

// parseListenAt takes [ADDRESS:]PORT, where a port alone is that of loopback: others may
// only be meant, not forgotten. 0.0.0.0 is all addresses of IPv4, and [::] or nothing before
// the colon those of both families.
func parseListenAt(s string) (ListenAddress, error) {
	host, port := "127.0.0.1", s
	if strings.Contains(s, ":") {
		var err error
		if host, port, err = net.SplitHostPort(s); err != nil {
			return ListenAddress{}, errNoAddress
		}
		switch host {
		case "localhost":
			host = "127.0.0.1"
		case "":
			host = "::"
		}
	}
	n, err := strconv.ParseUint(port, 10, 16)
	a, err2 := netip.ParseAddr(host)
	if err != nil || err2 != nil || a.IsMulticast() {
		return ListenAddress{}, errNoAddress
	}
	return ListenAddress{netip.AddrPortFrom(a.Unmap(), uint16(n))}, nil
}

var errNoAddress = errors.New("no address and port")

// parseDNSListen takes [ADDRESS:]PORT.
func parseDNSListen(s string) (ListenAddress, error) {
	a, err := parseListenAt(s)
	if err != nil {
		return a, fmt.Errorf("%s is %w: give one like 127.0.0.1:5353, or 0.0.0.0:5353 for all addresses of IPv4", quote(s), err)
	}
	return a, nil
}

// open tells of ports that other machines reach.
func (f Forwards) open() (notes []string) {
	for _, l := range f.Local {
		if !isPath(l.Listen) && !onLoopback(l.Listen) {
			notes = append(notes, fmt.Sprintf("-L: whoever reaches %s of this machine is led to %s in the VPN", l.Listen, l.Target))
		}
	}
	for _, d := range f.DNS {
		if !d.Addr().IsLoopback() {
			notes = append(notes, fmt.Sprintf("-dns-listen: whoever reaches %v can ask the VPN's name servers, under our address", d))
		}
	}
	return notes
}

// check finds ports that are wanted twice, and what leads into the VPN and back.
func (f Forwards) check(p Proxy, a Addressing) (ps []problem) {
	type port struct{ flag, network, listen string }
	var here []port
	for _, l := range p.listeners() {
		here = append(here, port{"listen", "tcp", l})
	}
	add := func(flag, network, listen string) {
		for _, q := range here {
			if q.network == network && clash(q.listen, listen) {
				ps = append(ps, problem{flag: flag, needs: []string{q.flag}, text: fmt.Sprintf("wants %s, which -%s has: give another port", listen, q.flag)})
				return
			}
		}
		here = append(here, port{flag, network, listen})
	}
	for _, l := range f.Local {
		add("L", l.Network, l.Listen)
		if at, err := netip.ParseAddrPort(l.Target); err == nil && (at.Addr() == a.Address.Addr() || at.Addr() == a.Address6.Addr()) {
			ps = append(ps, problem{flag: "L", needs: []string{"address", "address6"}, text: fmt.Sprintf("%v leads to our own address in the VPN, and so back to this machine: give another's", l)})
		}
	}
	for _, d := range f.DNS {
		add("dns-listen", "udp", d.String())
		add("dns-listen", "tcp", d.String())
	}
	for i, r := range f.Remote {
		for _, q := range f.Remote[:i] {
			if q.Network == r.Network && q.Listen == r.Listen {
				ps = append(ps, problem{flag: "R", text: fmt.Sprintf("%v and %v want the same port in the VPN: give another", q, r)})
			}
		}
	}
	return ps
}

// clash reports whether two listeners of this machine cannot both be.
func clash(a, b string) bool {
	if isPath(a) || isPath(b) {
		return a == b
	}
	return overlap(a, b)
}

package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// hostForm is -host as written: NAME or NAME:PORT, with SoftEther's hint after a
// slash. Names are kept without brackets.
type hostForm struct {
	name string
	port uint16 // 0 if none is given
}

func (h hostForm) String() string {
	if h.port == 0 {
		return h.name
	}
	return net.JoinHostPort(h.name, strconv.Itoa(int(h.port)))
}

// plainTCP are the hints that ask the official client for TCP alone, which is
// all this one does. Any other asks for NAT traversal with that text.
var plainTCP = []string{"tcp", "disable", "disabled", "no", "none"}

func parseHost(s string) (hostForm, error) {
	if strings.Contains(s, "@") { // not repeated: a password may stand before it
		return hostForm{}, errors.New("holds an @: give only the server's name, and the login by -user and -pass-file")
	}
	if scheme, rest, ok := strings.Cut(s, "://"); ok && scheme != "" {
		name, _, _ := strings.Cut(rest, "/")
		return hostForm{}, fmt.Errorf("%s is a URL: give only the name, %s", quote(s), quote(name))
	}
	text, hint, hinted := strings.Cut(s, "/")
	// vpncmd puts the port last, behind the hint.
	hint, after, portAfter := strings.Cut(hint, ":")
	if hinted && !slices.Contains(plainTCP, strings.ToLower(hint)) {
		return hostForm{}, fmt.Errorf("%s asks for NAT traversal after the slash, which is not supported: give NAME or NAME/tcp", quote(s))
	}
	name, before, portBefore, err := splitHost(text)
	if err == nil {
		name, err = checkHost(name)
	}
	if err != nil {
		return hostForm{}, fmt.Errorf("%s is not a server: %w", quote(s), err)
	}
	if portBefore && portAfter {
		return hostForm{}, fmt.Errorf("%s names two ports: drop one", quote(s))
	}
	h := hostForm{name: name}
	if portBefore || portAfter {
		h.port, err = parsePort(before + after) // one of them is empty
	}
	return h, err
}

// splitHost cuts a port off, but not the last group of a bare IPv6 address.
func splitHost(s string) (name, port string, hasPort bool, err error) {
	if _, err := netip.ParseAddr(s); err == nil {
		return s, "", false, nil
	}
	if inside, ok := strings.CutPrefix(s, "["); ok {
		name, rest, closed := strings.Cut(inside, "]")
		port, hasPort = strings.CutPrefix(rest, ":")
		if addr, err := netip.ParseAddr(name); !closed || err != nil || !addr.Is6() || (rest != "" && !hasPort) {
			return "", "", false, errors.New("brackets are for IPv6 addresses: [2001:db8::1] or [2001:db8::1]:443")
		}
		return name, port, hasPort, nil
	}
	name, port, hasPort = strings.Cut(s, ":")
	if strings.Contains(port, ":") {
		return "", "", false, errors.New("more than one colon, and no IPv6 address")
	}
	return name, port, hasPort, nil
}

// checkHost returns the name as it is to be dialed.
func checkHost(name string) (string, error) {
	if addr, err := netip.ParseAddr(name); err == nil {
		switch {
		case addr.IsUnspecified() || addr.IsMulticast():
			return "", errors.New("no single machine has this address")
		case strings.ContainsFunc(addr.Zone(), notInZone):
			return "", errors.New("the zone after % is an interface's name")
		}
		return addr.Unmap().String(), nil
	}
	bare := strings.TrimSuffix(name, ".")
	if err := checkDomain(bare); err != nil {
		return "", err
	}
	// No top-level domain is a number: this was meant to be an IPv4 address.
	last := bare[strings.LastIndexByte(bare, '.')+1:]
	if _, err := strconv.ParseUint(last, 10, 64); err == nil {
		return "", errors.New("neither a name nor an IPv4 address")
	}
	return name, nil
}

func notInZone(r rune) bool { return notInDomain(r) && r != '.' }

// parseListen takes an address for a proxy to listen on.
func parseListen(s string) (string, error) {
	const want = "give one like 127.0.0.1:1080"
	if strings.Contains(s, "@") { // not repeated: a password may stand before it
		return "", errors.New("holds an @: give only the address, and the login by -proxy-user and -proxy-pass-file")
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", fmt.Errorf("%s is not an address and a port: %s", quote(s), want)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil {
		return "", fmt.Errorf("%s does not end in a port, 0 to 65535: %s", quote(s), want)
	} else {
		port = strconv.FormatUint(n, 10)
	}
	addr, err := netip.ParseAddr(host)
	switch {
	case err == nil && (addr.IsMulticast() || strings.ContainsFunc(addr.Zone(), notInZone)):
		return "", fmt.Errorf("%s is not an address to listen on: %s", quote(s), want)
	case err == nil:
		host = addr.Unmap().String()
	case host != "" && checkDomain(host) != nil:
		return "", fmt.Errorf("%s is not an address and a port: %s", quote(s), want)
	}
	return net.JoinHostPort(strings.ToLower(host), port), nil
}

// onLoopback reports whether only this machine can reach a listener. A name other
// than localhost may stand for any address, so it counts as reachable.
func onLoopback(listen string) bool {
	if !hasPort(listen) {
		return true
	}
	host, _, _ := net.SplitHostPort(listen)
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.IsLoopback()
	}
	return host == "localhost"
}

// overlap reports whether two listeners cannot both be bound. Port 0 is a new
// port each time.
func overlap(a, b string) bool {
	if !hasPort(a) || !hasPort(b) {
		return a == b
	}
	hostA, portA, _ := net.SplitHostPort(a)
	hostB, portB, _ := net.SplitHostPort(b)
	if portA != portB || portA == "0" {
		return false
	}
	return hostA == hostB || includes(hostA, hostB) || includes(hostB, hostA)
}

// includes reports whether a host stands for all addresses that another may be: 0.0.0.0 for
// those of IPv4, :: and none for both families. A name may be any.
func includes(all, host string) bool {
	a, err := netip.ParseAddr(all)
	if all != "" && (err != nil || !a.IsUnspecified()) {
		return false
	}
	b, err := netip.ParseAddr(host)
	return all == "" || a.Is6() || err != nil || b.Is4()
}

package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// maxHost is the longest name SOCKS5 can carry; the DNS allows two bytes less.
const maxHost = 255

// target returns the address to dial for a host, an IP address or name without
// brackets, and a port. Whether a name exists is the resolver's to say; here only
// what would be misunderstood on the way there is rejected.
func target(host string, port int) (string, error) {
	if port < 1 || port > 65535 {
		return "", fmt.Errorf("target %q: port %d is not between 1 and 65535", host, port)
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		if addr.Zone() != "" {
			return "", fmt.Errorf("target %q: a zone names an interface of the client", host)
		}
		return netip.AddrPortFrom(addr.Unmap(), uint16(port)).String(), nil
	}
	switch {
	case host == "":
		return "", errors.New("target without a host name")
	case len(host) > maxHost:
		return "", fmt.Errorf("target name of %d bytes is longer than %d", len(host), maxHost)
	case strings.ContainsFunc(host, notInName):
		return "", fmt.Errorf("target %q: character not allowed in a host name", host)
	}
	return net.JoinHostPort(host, strconv.Itoa(port)), nil
}

// notInName rejects what has a meaning in URLs and addresses, and controls. Bytes
// beyond ASCII may pass, for names of local networks.
func notInName(c rune) bool {
	return c <= ' ' || c == 0x7f || strings.ContainsRune(`:[]%/\@?#"`, c)
}

// authority returns the address to dial for the authority of a URL. A zero
// defaultPort means that a port is required.
func authority(hostport string, defaultPort int) (string, error) {
	if strings.Contains(hostport, "@") {
		return "", errors.New("target with user or password")
	}
	host, port, err := net.SplitHostPort(hostport)
	if err != nil && defaultPort != 0 {
		host, port, err = net.SplitHostPort(net.JoinHostPort(unbracket(hostport), strconv.Itoa(defaultPort)))
	}
	if err != nil {
		return "", fmt.Errorf("target %q: not of the form host:port", hostport)
	}
	if port == "" && defaultPort != 0 {
		return target(host, defaultPort)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return "", fmt.Errorf("target %q: port is not a number up to 65535", hostport)
	}
	return target(host, int(n))
}

// unbracket removes the brackets of an IPv6 address in a URL.
func unbracket(host string) string {
	if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		return host[1 : len(host)-1]
	}
	return host
}

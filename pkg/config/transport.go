package config

import "fmt"

// A Transport is what carries the session to the server.
type Transport uint8

// The transports.
const (
	TCP  Transport = iota
	RUDP           // R-UDP, to a UDP port of the server's
	DNS            // R-UDP that looks like name look-ups, to port 53
	ICMP           // R-UDP in ICMP messages
	Auto           // TCP, and where that fails R-UDP, to the port if there is one, then as DNS
)

var transports = []string{"tcp", "rudp", "dns", "icmp", "auto"}

// String gives the transport as -transport takes it.
func (t Transport) String() string { return transports[t] }

func parseTransport(s string) (Transport, error) {
	for i, name := range transports {
		if s == name {
			return Transport(i), nil
		}
	}
	return 0, fmt.Errorf("%s is not a transport: give tcp, rudp, dns, icmp or auto", quote(s))
}

// checkTransport checks what R-UDP needs, and what it cannot have.
func (w Way) checkTransport() (ps []problem) {
	needs := []string{"transport", "rudp-port", "proxy", "proxy-from-env"}
	switch {
	case w.Transport == RUDP && w.RUDPPort == 0:
		ps = append(ps, problem{flag: "transport", needs: needs,
			text: "rudp needs the server's R-UDP port: give -rudp-port (on the server, ss -ulnp shows it beside those that are its TCP ports too)"})
	case w.Transport != RUDP && w.Transport != Auto && w.RUDPPort != 0:
		ps = append(ps, problem{flag: "rudp-port", needs: needs, text: "is for -transport rudp or auto: add one of these, or drop it"})
	}
	if w.Transport != TCP && w.Transport != Auto && w.Proxy.Scheme != "" && !w.FromEnv {
		ps = append(ps, problem{flag: "transport", needs: needs, text: fmt.Sprintf("%v cannot go through a proxy: drop one of the two", w.Transport)})
	}
	return ps
}

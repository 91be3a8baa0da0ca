package config

import "fmt"

// UDP says what goes by UDP acceleration.
type UDP struct {
	Policy UDPPolicy
	Port   uint16 // to send from; 0 leaves it to the system
}

// UDPPolicy is when frames go by UDP.
type UDPPolicy uint8

// The policies.
const (
	UDPAuto    UDPPolicy = iota // while it measures better
	UDPOff                      // never
	UDPRequire                  // always
)

// String gives the policy as -udp takes it.
func (p UDPPolicy) String() string { return [...]string{"auto", "off", "require"}[p] }

func parseUDPPolicy(s string) (UDPPolicy, error) {
	for _, p := range []UDPPolicy{UDPAuto, UDPOff, UDPRequire} {
		if s == p.String() {
			return p, nil
		}
	}
	return 0, fmt.Errorf("%s is not a way to use UDP: give auto, off or require", quote(s))
}

func (c Config) checkUDP() (ps []problem) {
	if c.UDP.Policy == UDPRequire && (c.Way.Proxy.Scheme != "" || c.Way.FromEnv) {
		ps = append(ps, problem{flag: "udp", needs: []string{"proxy", "proxy-from-env"},
			text: "require cannot be kept through a proxy, which carries TCP alone: drop the proxy, or give auto"})
	}
	if c.UDP.Policy == UDPOff && c.UDP.Port != 0 {
		ps = append(ps, problem{flag: "udp-port", needs: []string{"udp"}, text: "is for UDP acceleration, and -udp is off: drop one of the two"})
	}
	return ps
}

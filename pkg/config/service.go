package config

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// parseHealth takes where to answer questions about the tunnel.
func parseHealth(s string) (string, error) {
	if strings.HasPrefix(s, fdForm) || strings.HasPrefix(s, systemdForm) {
		return "", fmt.Errorf("%s is for the proxies alone: give an address and a port, or a Unix socket", quote(s))
	}
	return parseProxyListen(s)
}

// parseTarget takes whom to ask whether the tunnel works.
func parseTarget(s string) (string, error) {
	if _, err := netip.ParseAddr(s); err == nil {
		a, err := parseServer(s)
		return a.String(), err
	}
	return parseDomain(s)
}

func parseDrain(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%s is not a duration: give one like 10s, or 0s for none", quote(s))
	}
	return d, nil
}

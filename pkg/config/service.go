package config

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// parseHealth takes where to answer questions about the tunnel.
func parseHealth(s string) (string, error) {
	path, ok := strings.CutPrefix(s, "unix:")
	switch {
	case !ok && strings.HasPrefix(s, "@"), !ok && strings.HasPrefix(s, "/"):
		return "", fmt.Errorf("%s is not an address and a port: for a Unix socket give %s", quote(s), quote("unix:"+s))
	case !ok:
		return parseListen(s)
	case path == "" || path == "@":
		return "", errors.New("unix: wants a path, or @ and a name, behind it")
	case len(path) > maxUnixPath:
		return "", fmt.Errorf("%s is longer than the %d bytes that the path of a Unix socket has", quote(path), maxUnixPath)
	}
	_, err := parsePath(path)
	return s, err
}

// maxUnixPath is what fits into sun_path everywhere: 104 bytes on the BSDs, 108 on Linux,
// with a NUL at the end.
const maxUnixPath = 103

// parseTarget takes whom to ask whether the tunnel works.
func parseTarget(s string) (string, error) {
	if _, err := netip.ParseAddr(s); err == nil {
		a, err := parseHostAddr(s)
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

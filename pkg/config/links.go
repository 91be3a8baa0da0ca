package config

import (
	"fmt"
	"strconv"
	"time"
)

// Links says what TCP connections the session is to have, and what they carry. What
// the server does not grant is done without.
type Links struct {
	Count      int           // 1 by default
	HalfDuplex bool          // each carries one direction
	TTL        time.Duration // replace each at this age; 0 means never
	QoS        bool          // keep one for urgent frames
	Compress   bool
	Cleartext  bool // no encryption
}

// maxLinks is the most that a session can have (Cedar/Cedar.h, MAX_TCP_CONNECTION).
const maxLinks = 32

func parseLinks(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > maxLinks {
		return 0, fmt.Errorf("%s is not a number of connections: give 1 to %d", quote(s), maxLinks)
	}
	return n, nil
}

// leastTTL is what a server bears that counts connections by address.
const leastTTL = 5 * time.Second

func parseTTL(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d != 0 && d < leastTTL {
		return 0, fmt.Errorf("%s is not an age of connections: give one of %v or more such as 10m, or 0s for none", quote(s), leastTTL)
	}
	return d, nil
}

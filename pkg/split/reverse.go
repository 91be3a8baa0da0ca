package split

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// reversed returns the address whose names are asked for by a name below in-addr.arpa or
// ip6.arpa (RFC 1035, 3.5; RFC 3596, 2.5). For a network's name, which has less before it,
// that is its first address; what stands before a whole address (RFC 2317) is left out.
func reversed(name string) (netip.Addr, bool) {
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		var b [4]byte
		n := fill(b[:], rest, 10, 255)
		return netip.AddrFrom4(b), n > 0
	}
	rest, ok := strings.CutSuffix(name, ".ip6.arpa")
	if !ok {
		return netip.Addr{}, false
	}
	var digits [32]byte
	n := fill(digits[:], rest, 16, 15)
	var b [16]byte
	for i := range b {
		b[i] = digits[2*i]<<4 | digits[2*i+1]
	}
	return netip.AddrFrom16(b), n > 0
}

// fill reads the labels of a name from its end as numbers, up to the first that is none,
// and returns how many there were.
func fill(to []byte, name string, base int, most uint64) (n int) {
	for _, label := range slices.Backward(strings.Split(name, ".")) {
		v, err := strconv.ParseUint(label, base, 8)
		if err != nil || v > most || n == len(to) {
			break
		}
		to[n] = byte(v)
		n++
	}
	return n
}

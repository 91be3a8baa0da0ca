package split

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// LookupPTR returns the names that this machine's resolver has for the direct address that a
// name below in-addr.arpa or ip6.arpa stands for. The error is errors.ErrUnsupported for a
// name that stands for none.
func (h *Host) LookupPTR(ctx context.Context, name string) ([]string, error) {
	a, whole := reversed(canonical(name))
	switch {
	case !whole:
		return nil, errors.ErrUnsupported
	case h.Rules.Name(name) != Direct:
		return nil, refused(name, errors.New("it is for the VPN"))
	}
	lookup := h.LookupAddr
	if lookup == nil {
		lookup = net.DefaultResolver.LookupAddr
	}
	return lookup(ctx, a.String())
}

// reversed returns the address whose names are asked for by a name below in-addr.arpa or
// ip6.arpa (RFC 1035, 3.5; RFC 3596, 2.5), and whether there is one and nothing else. Of a
// network's name, which has less before it, it is the first address; what stands before a
// whole address (RFC 2317) is left out. Other names have an invalid one.
func reversed(name string) (a netip.Addr, whole bool) {
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		var b [4]byte
		n := fill(b[:], rest, 10, 255)
		if n == 0 {
			return netip.Addr{}, false
		}
		return netip.AddrFrom4(b), n == len(b) && strings.Count(rest, ".") == n-1
	}
	rest, _ := strings.CutSuffix(name, ".ip6.arpa")
	var digits [32]byte
	n := fill(digits[:], rest, 16, 15)
	if rest == name || n == 0 {
		return netip.Addr{}, false
	}
	var b [16]byte
	for i := range b {
		b[i] = digits[2*i]<<4 | digits[2*i+1]
	}
	return netip.AddrFrom16(b), n == len(digits) && strings.Count(rest, ".") == n-1
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

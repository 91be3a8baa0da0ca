package autoconf

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"time"
)

// An advert is what a router says in one advertisement (RFC 4861 section 4.2).
type advert struct {
	managed, other bool          // addresses by DHCPv6; other things by it
	lifetime       time.Duration // as a default router; zero means it is none
	preference     int           // as a default router, -1 to 1
	mtu            int           // 0 means not said
	prefixes       []prefixInfo
	routes         []routeInfo
	servers        []timed[netip.Addr]
	search         []timed[string]
}

type prefixInfo struct {
	prefix           netip.Prefix
	onLink, auto     bool
	valid, preferred time.Duration
}

type routeInfo struct {
	prefix     netip.Prefix
	preference int
	lifetime   time.Duration
}

// A timed is a thing with a lifetime.
type timed[T any] struct {
	what     T
	lifetime time.Duration
}

// What an option is (RFC 4861, 4191, 8106).
const (
	optionPrefix = 3
	optionMTU    = 5
	optionRoute  = 24
	optionRDNSS  = 25
	optionDNSSL  = 31
)

const (
	minMTU = 1280 // what each link of IPv6 takes (RFC 8200 section 5)
	maxMTU = 1500
)

// maxOptions bounds how many options of an advertisement are looked at.
const maxOptions = 64

var errAdvert = errors.New("malformed router advertisement")

// parseAdvert reads the body of an advertisement after its checksum. An option that is
// not right is left out; if their lengths are not, so is everything.
func parseAdvert(b []byte) (advert, error) {
	if len(b) < 12 {
		return advert{}, errAdvert
	}
	a := advert{
		managed: b[1]&0x80 != 0, other: b[1]&0x40 != 0, preference: preference(b[1]),
		lifetime: time.Duration(binary.BigEndian.Uint16(b[2:])) * time.Second,
	}
	b = b[12:]
	for n := 0; len(b) > 0 && n < maxOptions; n++ {
		if len(b) < 8 || b[1] == 0 || int(b[1])*8 > len(b) {
			return advert{}, errAdvert
		}
		a.option(b[0], b[:int(b[1])*8])
		b = b[int(b[1])*8:]
	}
	return a, nil
}

// preference reads two bits that routers and routes have alike (RFC 4191 section 2.1).
func preference(flags byte) int {
	switch flags >> 3 & 3 {
	case 1:
		return 1
	case 3:
		return -1
	}
	return 0
}

// option reads one option, whose length is a multiple of eight bytes.
func (a *advert) option(kind byte, b []byte) {
	switch {
	case kind == optionPrefix && len(b) == 32:
		p := netip.PrefixFrom(netip.AddrFrom16([16]byte(b[16:])), int(b[2]))
		if routable(p) {
			a.prefixes = append(a.prefixes, prefixInfo{
				prefix: p.Masked(), onLink: b[3]&0x80 != 0, auto: b[3]&0x40 != 0,
				valid: seconds(b[4:]), preferred: seconds(b[8:]),
			})
		}
	case kind == optionMTU && len(b) == 8:
		if n := binary.BigEndian.Uint32(b[4:]); n >= minMTU && n <= maxMTU {
			a.mtu = int(n)
		}
	case kind == optionRoute && len(b) <= 24:
		var raw [16]byte
		copy(raw[:], b[8:])
		p := netip.PrefixFrom(netip.AddrFrom16(raw), int(b[2]))
		if routable(p) && int(b[2]) <= 8*(len(b)-8) {
			a.routes = append(a.routes, routeInfo{prefix: p.Masked(), preference: preference(b[3]), lifetime: seconds(b[4:])})
		}
	case kind == optionRDNSS && len(b) >= 24:
		for rest := b[8:]; len(rest) >= 16; rest = rest[16:] {
			if addr := netip.AddrFrom16([16]byte(rest)); usableServer(addr) {
				a.servers = append(a.servers, timed[netip.Addr]{addr, seconds(b[4:])})
			}
		}
	case kind == optionDNSSL && len(b) >= 16:
		for _, name := range domainNames(b[8:]) {
			a.search = append(a.search, timed[string]{name, seconds(b[4:])})
		}
	}
}

// seconds reads a lifetime. All ones means for ever, and is 136 years as a number.
func seconds(b []byte) time.Duration {
	return time.Duration(binary.BigEndian.Uint32(b)) * time.Second
}

// routable reports whether p can be of a network: neither of all, of a group, of each link
// nor of this machine.
func routable(p netip.Prefix) bool {
	a := p.Addr()
	return p.IsValid() && p.Bits() > 0 && !a.IsMulticast() && !a.IsLinkLocalUnicast() && !a.IsUnspecified() &&
		!a.IsLoopback() && !a.Is4In6()
}

func usableServer(a netip.Addr) bool {
	return a.Is6() && !a.Is4In6() && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback()
}

// domainNames reads names in the form of RFC 1035 section 3.1, without compression, up to
// the first that is not right. Zeros after the last are padding.
func domainNames(b []byte) (names []string) {
	for len(b) > 0 && b[0] != 0 && len(names) < maxSearch {
		var name []byte
		for len(b) > 0 && b[0] != 0 {
			n := int(b[0])
			if n > 63 || n+1 > len(b) || len(name)+n > 253 {
				return names
			}
			if len(name) > 0 {
				name = append(name, '.')
			}
			for _, c := range b[1 : n+1] {
				if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
					return names
				}
			}
			name = append(name, b[1:n+1]...)
			b = b[n+1:]
		}
		if len(b) == 0 {
			return names // without its end
		}
		names = append(names, string(name))
		b = b[1:]
	}
	return names
}

package netstack

import (
	"encoding/binary"
	"net/netip"
	"sync"
)

// What a router says that refuses to forward: by ICMP type 3, codes 9, 10 and 13 (RFC
// 1812, 5.2.7.1). gVisor takes these for hosts and networks that cannot be reached.
const (
	icmpUnreachable     = 3
	icmpNetProhibited   = 9
	icmpHostProhibited  = 10
	icmpAdminProhibited = 13
)

// attemptKey tells an attempt to connect from others.
type attemptKey struct {
	to   netip.AddrPort
	from uint16 // our port
}

// A prohibitions remembers attempts that routers refused to forward, until whoever made
// them asks. It holds few: an attempt hears of its refusal at once.
type prohibitions struct {
	mu   sync.Mutex
	last [64]attemptKey
	next int
}

// note looks at a frame with an IPv4 packet. A packet that is none of those, as nearly
// all are, costs a look at one byte.
func (p *prohibitions) note(f []byte) {
	const protocolAt, icmpAt, ipv4, tcp = 14 + 9, 14 + 20, 0x45, 6
	const inner = icmpAt + 8 // the header of the packet that was refused
	if len(f) < inner+20+4 || f[protocolAt] != 1 || f[14] != ipv4 || f[icmpAt] != icmpUnreachable ||
		f[inner] != ipv4 || f[inner+9] != tcp {
		return
	}
	switch f[icmpAt+1] {
	case icmpNetProhibited, icmpHostProhibited, icmpAdminProhibited:
	default:
		return
	}
	to := netip.AddrFrom4([4]byte(f[inner+16:]))
	ports := f[inner+20:]
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last[p.next%len(p.last)] = attemptKey{netip.AddrPortFrom(to, binary.BigEndian.Uint16(ports[2:])), binary.BigEndian.Uint16(ports)}
	p.next++
}

// take reports whether an attempt was refused, and forgets it.
func (p *prohibitions) take(k attemptKey) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, l := range p.last {
		if l == k {
			p.last[i] = attemptKey{}
			return true
		}
	}
	return false
}

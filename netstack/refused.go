package netstack

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"syscall"

	"softether-go/pkg/frame"
)

// What a router says that does not forward, and gVisor has no error for: by ICMP type 3
// (RFC 1812, 5.2.7.1), which it takes for a host or network that cannot be reached, and by
// ICMPv6 type 1 (RFC 4443, 3.1), of which it knows code 0 alone and drops the rest.
var (
	refusals4 = map[byte]syscall.Errno{
		9:  syscall.EACCES, // network prohibited
		10: syscall.EACCES, // host prohibited
		13: syscall.EACCES, // prohibited by the administrator
	}
	refusals6 = map[byte]syscall.Errno{
		1: syscall.EACCES,       // prohibited by the administrator
		2: syscall.ENETUNREACH,  // beyond the scope of our address
		3: syscall.EHOSTUNREACH, // address unreachable
		5: syscall.EACCES,       // our address fails a policy
		6: syscall.EACCES,       // a route that rejects
	}
)

const (
	unreachable4 = 3 // the type
	unreachable6 = 1
)

// attemptKey tells an attempt to connect from others.
type attemptKey struct {
	to   netip.AddrPort
	from uint16 // our port
}

// refusals remembers attempts that routers refused to forward, until whoever made them
// asks. It holds few: an attempt hears of its refusal at once.
type refusals struct {
	mu   sync.Mutex
	last [64]refusal
	next int
}

type refusal struct {
	attemptKey
	why syscall.Errno
}

// note looks at a frame, and returns it, or in its place one that gVisor understands. A
// frame that is no refusal, as nearly all are, costs a look at a few bytes.
func (r *refusals) note(f []byte) []byte {
	if frame.EtherType(f) == frame.TypeIPv6 {
		return r.note6(f)
	}
	const protocolAt, icmpAt, ipv4, tcp = 14 + 9, 14 + 20, 0x45, 6
	const inner = icmpAt + 8 // the header of the packet that was refused
	if len(f) < inner+20+4 || f[protocolAt] != 1 || f[14] != ipv4 || f[icmpAt] != unreachable4 ||
		f[inner] != ipv4 || f[inner+9] != tcp {
		return f
	}
	if why, ok := refusals4[f[icmpAt+1]]; ok {
		r.keep(netip.AddrFrom4([4]byte(f[inner+16:])), f[inner+20:], why)
	}
	return f
}

// note6 gives a refusal the code that gVisor knows.
func (r *refusals) note6(f []byte) []byte {
	const nextAt, icmpAt, icmp, tcp = 14 + 6, 14 + 40, 58, 6
	const inner = icmpAt + 8
	if len(f) < inner+40+4 || f[nextAt] != icmp || f[icmpAt] != unreachable6 || f[inner]>>4 != 6 || f[inner+6] != tcp {
		return f
	}
	code := f[icmpAt+1]
	why, ok := refusals6[code]
	if !ok {
		return f
	}
	r.keep(netip.AddrFrom16([16]byte(f[inner+24:])), f[inner+40:], why)
	known := slices.Clone(f)
	known[icmpAt+1] = 0
	// What the sum has lost, its complement gains (RFC 1624).
	sum := uint32(binary.BigEndian.Uint16(f[icmpAt+2:])) + uint32(code)
	binary.BigEndian.PutUint16(known[icmpAt+2:], uint16(sum+sum>>16))
	return known
}

// keep remembers a refusal of what began with these ports.
func (r *refusals) keep(to netip.Addr, ports []byte, why syscall.Errno) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := attemptKey{netip.AddrPortFrom(to, binary.BigEndian.Uint16(ports[2:])), binary.BigEndian.Uint16(ports)}
	r.last[r.next%len(r.last)] = refusal{key, why}
	r.next++
}

// take returns why an attempt was refused, zero if it was not, and forgets it.
func (r *refusals) take(k attemptKey) syscall.Errno {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, l := range r.last {
		if l.attemptKey == k {
			r.last[i] = refusal{}
			return l.why
		}
	}
	return 0
}

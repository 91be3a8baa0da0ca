package ping

import (
	"encoding/binary"

	"softether-go/pkg/inet"
)

// Types and codes of ICMP (RFC 792, RFC 1812) and ICMPv6 (RFC 4443).
const (
	echoReply4, unreachable4, echo4, exceeded4, parameter4               = 0, 3, 8, 11, 12
	unreachable6, tooBig6, exceeded6, parameter6, echo6, echoReply6 byte = 1, 2, 3, 4, 128, 129

	headerLen = 8 // of an echo, and of an error before what it is about
)

// appendEcho appends a request of payload bytes that count up, as ping(8)'s do. The
// checksum of ICMPv6 is the stack's to add.
func appendEcho(b []byte, v6 bool, id, seq uint16, payload int) []byte {
	start := len(b)
	kind := byte(echo4)
	if v6 {
		kind = echo6
	}
	b = append(b, kind, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, id)
	b = binary.BigEndian.AppendUint16(b, seq)
	for i := range payload {
		b = append(b, byte(i))
	}
	if !v6 {
		binary.BigEndian.PutUint16(b[start+2:], inet.Checksum(b[start:]))
	}
	return b
}

// A notice is what a message says about a request.
type notice struct {
	id, seq uint16
	error   Error
}

// parse reads a message that is an echo, or an error about a request for one.
func parse(b []byte, v6 bool) (n notice, ok bool) {
	if len(b) < headerLen {
		return n, false
	}
	reply := byte(echoReply4)
	if v6 {
		reply = echoReply6
	}
	if b[0] == reply {
		return notice{id: binary.BigEndian.Uint16(b[4:]), seq: binary.BigEndian.Uint16(b[6:])}, true
	}
	if v6 {
		n.error = errorOf6(b)
	} else {
		n.error = errorOf4(b)
	}
	if n.error.Kind == None {
		return n, false
	}
	request, ok := about(b[headerLen:], v6)
	if !ok {
		return n, false
	}
	n.id, n.seq = binary.BigEndian.Uint16(request[4:]), binary.BigEndian.Uint16(request[6:])
	return n, true
}

// about returns the request that an error is about, its first eight bytes at least.
func about(packet []byte, v6 bool) (request []byte, ok bool) {
	const protocol4, protocol6, header6 = 1, 58, 40
	at, kind := header6, echo6
	if v6 {
		if len(packet) < header6 || packet[6] != protocol6 {
			return nil, false
		}
	} else {
		if len(packet) < 20 || packet[9] != protocol4 {
			return nil, false
		}
		at, kind = int(packet[0]&0xf)*4, echo4
	}
	if len(packet) < at+headerLen || packet[at] != kind {
		return nil, false
	}
	return packet[at:], true
}

func errorOf4(b []byte) Error {
	switch b[0] {
	case exceeded4:
		return Error{Kind: Expired}
	case parameter4:
		return Error{Kind: Other}
	case unreachable4:
	default:
		return Error{}
	}
	switch b[1] {
	case 0, 6, 11:
		return Error{Kind: NetUnreachable}
	case 1, 7, 8, 12:
		return Error{Kind: HostUnreachable}
	case 2:
		return Error{Kind: ProtocolUnreachable}
	case 3:
		return Error{Kind: PortUnreachable}
	case 4:
		return Error{Kind: TooBig, MTU: int(binary.BigEndian.Uint16(b[6:]))}
	case 9, 10, 13:
		return Error{Kind: Prohibited}
	}
	return Error{Kind: Other}
}

func errorOf6(b []byte) Error {
	switch b[0] {
	case exceeded6:
		return Error{Kind: Expired}
	case tooBig6:
		return Error{Kind: TooBig, MTU: int(binary.BigEndian.Uint32(b[4:]))}
	case parameter6:
		return Error{Kind: Other}
	case unreachable6:
	default:
		return Error{}
	}
	switch b[1] {
	case 0:
		return Error{Kind: NetUnreachable}
	case 3:
		return Error{Kind: HostUnreachable}
	case 4:
		return Error{Kind: PortUnreachable}
	case 1, 5, 6:
		return Error{Kind: Prohibited}
	}
	return Error{Kind: Other}
}

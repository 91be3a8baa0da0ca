package offload

import "errors"

// A Type says how a super-frame is to be cut.
type Type uint8

const (
	Plain Type = iota // one frame, not to be cut
	TCPv4             // TCP segments over IPv4
	TCPv6             // TCP segments over IPv6
	UDP               // UDP datagrams over IPv4 or IPv6; each piece is one datagram
)

func (t Type) String() string {
	switch t {
	case Plain:
		return "plain"
	case TCPv4:
		return "TCPv4"
	case TCPv6:
		return "TCPv6"
	case UDP:
		return "UDP"
	}
	return "unknown"
}

// Meta says how a super-frame is to be cut and which checksum is missing. Offsets
// count from the start of the Ethernet header.
type Meta struct {
	GSO        Type
	ECN        bool // the first segment has CWR set, and no other may have it
	NeedsCsum  bool // the transport checksum covers the pseudo header only so far
	Size       int  // payload bytes in each frame but the last; none if Plain
	HdrLen     int  // length of all headers; Split finds out by itself
	CsumStart  int  // where the missing checksum's range begins; it ends with the frame
	CsumOffset int  // where the checksum is, from CsumStart
}

// A Super is a frame of any size in pieces: the frame is Header and then Payload.
type Super struct {
	// Header holds all headers; payload may follow in it. It is the whole frame,
	// verbatim, if the Coalescer left the frame alone.
	Header []byte

	// Payload is the payload, or its rest. In a Super from the Coalescer each
	// slice is the payload of one frame.
	Payload [][]byte

	Meta

	// Thinned is how many earlier acknowledgements, left out by the Coalescer, the
	// frame stands for beside itself.
	Thinned int

	// Checksums says what the Coalescer found. Split ignores it.
	Checksums Verdict
}

// Len returns the length of the whole frame.
func (s *Super) Len() int {
	n := len(s.Header)
	for _, p := range s.Payload {
		n += len(p)
	}
	return n
}

// Frames returns the number of frames that the Coalescer made s from.
func (s *Super) Frames() int { return max(1, len(s.Payload)) }

// A Verdict is what became known about a frame's checksums: IPv4 header, TCP, UDP.
type Verdict uint8

const (
	Unverified Verdict = iota // not looked at, or not all of them can be seen
	Correct                   // those that there are, are correct
	Wrong                     // one of them is not
)

func (v Verdict) String() string {
	switch v {
	case Unverified:
		return "unverified"
	case Correct:
		return "correct"
	case Wrong:
		return "wrong"
	}
	return "unknown"
}

// What Split and Complete refuse. Each is a contradiction between the frame and its
// metadata that no sender of good will produces.
var (
	ErrHeader   = errors.New("offload: super-frame without the headers that its type asks for")
	ErrSize     = errors.New("offload: super-frame without a segment size")
	ErrTooLong  = errors.New("offload: segment longer than an IP packet can be")
	ErrType     = errors.New("offload: super-frame of unknown type")
	ErrChecksum = errors.New("offload: checksum outside the frame")
)

package offload

import (
	"encoding/binary"

	"softether-go/pkg/inet"
)

// correct is the sum over anything together with its own, correct checksum.
const correct = 0xffff

// Verify looks at the checksums of a frame: IPv4 header, TCP, UDP. A frame in which
// it finds a wrong one, and only that, is Wrong; in one that is Unverified nothing
// wrong was found in what could be seen, which of a fragment is its IPv4 header.
func Verify(f []byte) Verdict {
	var l layout
	return l.verify(f, l.parse(f))
}

// verify is Verify for a frame that has been parsed, and turned out to be a k.
func (l *layout) verify(f []byte, k kind) Verdict {
	if l.l4 != 0 && !l.v6 && inet.Fold(inet.Sum(f[l.l3:l.l4])) != correct {
		return Wrong
	}
	if k != flow {
		return Unverified
	}
	return l.verifyTransport(f)
}

func (l *layout) verifyTransport(f []byte) Verdict {
	if l.proto == protoUDP && binary.BigEndian.Uint16(f[l.l4+udpCsum:]) == 0 {
		if l.v6 {
			return Wrong // RFC 8200 section 8.1
		}
		return Correct // the sender made none
	}
	from := l.l4
	pseudo := uint64(l.proto) + uint64(l.end-l.l4)
	if l.plain { // the addresses stand right before the transport header
		from -= len(l.addresses(f))
	} else {
		pseudo += inet.Sum(l.addresses(f))
	}
	if inet.Fold(pseudo+inet.Sum(f[from:l.end])) != correct {
		return Wrong
	}
	return Correct
}

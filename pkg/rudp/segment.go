package rudp

import (
	"crypto/rand"
	"crypto/sha1"
	"crypto/subtle"
	"encoding/binary"
	mathrand "math/rand/v2"
	"time"

	"softether-go/pkg/rc4"
)

const (
	hashLen = sha1.Size
	// openLen is the length of an opening: what is shorter than two hashes cannot be a
	// segment. (Mayaqua/Network.c, RUDPRecvProc)
	openLen = 2*hashLen - 1

	headLen = 2 * hashLen            // signature and initialisation vector
	bodyLen = 3*8 + 4 + 8            // ticks, acknowledgements and their number, own number
	maxPad  = 255                    // bytes, each of which says how many there are
	maxBody = bodyLen + 8*window + 0 // without data

	// maxPacket is the longest segment (Mayaqua/Network.h, RUDP_MAX_PACKET_SIZE), and
	// more than the longest frame with what a carrier adds.
	maxPacket = headLen + maxBody + maxData + maxPad + 1024
)

type hash = [hashLen]byte

// keys are one stream's, of the side that has them.
type keys struct {
	send, recv                hash
	aliveRequest, aliveAnswer hash
}

func newInit() (init hash) {
	rand.Read(init[:])
	return init
}

// clientKeys makes the client's keys of the bytes that it opens with. (RUDPNewSession)
func clientKeys(init hash) keys {
	k := keys{recv: sha1.Sum(named(init[:], "zurukko"))}
	k.send = sha1.Sum(named(append(init[:], k.recv[:]...), "yasushineko"))
	k.aliveRequest = sha1.Sum(named(init[:], "Magic_KeepAliveRequest"))
	k.aliveAnswer = sha1.Sum(named(init[:], "Magic_KeepAliveResponse"))
	return k
}

// named appends a string as Mayaqua/Memory.c, WriteBufStr does: its length counts a NUL
// that is not there.
func named(b []byte, s string) []byte {
	b = append([]byte(nil), b...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(s)+1))
	return append(b, s...)
}

func (k *keys) asks(data []byte) bool    { return string(data) == string(k.aliveRequest[:]) }
func (k *keys) answers(data []byte) bool { return string(data) == string(k.aliveAnswer[:]) }

// opening is the first datagram.
func opening(init hash) []byte {
	b := make([]byte, openLen)
	rand.Read(b[copy(b, init[:]):])
	return b
}

// newMark chooses the number that means the end: none that a segment can have.
func newMark() uint64 { return 0xffffffff_00000000 | uint64(mathrand.Uint32()) }

func appendMark(b []byte, mark uint64) []byte { return binary.BigEndian.AppendUint64(b, mark) }

func aliveAfter() time.Duration { return aliveMin + mathrand.N(aliveMax-aliveMin) }

// appendPlain builds a segment with room for its head. It pads pure data a little and
// the rest much, so that an acknowledgement is not known by its length.
func appendPlain(b []byte, myTick, yourTick, complete uint64, acks []uint64, seq uint64, data []byte) []byte {
	var head [headLen]byte
	b = append(b, head[:]...)
	b = binary.BigEndian.AppendUint64(b, myTick)
	b = binary.BigEndian.AppendUint64(b, yourTick)
	b = binary.BigEndian.AppendUint64(b, complete)
	b = binary.BigEndian.AppendUint32(b, uint32(len(acks)))
	for _, seq := range acks {
		b = binary.BigEndian.AppendUint64(b, seq)
	}
	b = binary.BigEndian.AppendUint64(b, seq)
	b = append(b, data...)
	most := maxPad
	if len(data) == maxData {
		most = 31
	}
	return appendPadding(b, 1+mathrand.IntN(most))
}

func appendPadding(b []byte, n int) []byte {
	for range n {
		b = append(b, byte(n))
	}
	return b
}

// seal encrypts and signs what appendPlain made, in place. The signature is the hash
// of the datagram with the key where the signature goes, masked as the carrier wants.
func (k *keys) seal(b []byte, mask *hash) []byte {
	rand.Read(b[hashLen:headLen])
	var c rc4.Cipher
	c.Init(mixed(b[hashLen:headLen], k.send[:]))
	c.XOR(b[headLen:])
	copy(b, k.send[:])
	sum := sha1.Sum(b)
	copy(b, sum[:])
	if mask != nil {
		subtle.XORBytes(b[:hashLen], b[:hashLen], mask[:])
	}
	return b
}

// mixed is the key of one datagram.
func mixed(a, b []byte) hash {
	var both [2 * hashLen]byte
	copy(both[copy(both[:], a):], b)
	return sha1.Sum(both[:])
}

// inbound is a segment as it came; its slices are of the datagram.
type inbound struct {
	myTick, yourTick, complete uint64
	packed                     []byte // acknowledgements
	seq                        uint64
	data                       []byte
}

func (s inbound) acks() int        { return len(s.packed) / 8 }
func (s inbound) ack(i int) uint64 { return binary.BigEndian.Uint64(s.packed[8*i:]) }

// open checks and decrypts a segment, in place. Of what is none it changes nothing.
func (k *keys) open(b []byte, mask *hash) (s inbound, ok bool) {
	if len(b) <= headLen || !signed(b, k.recv, mask) {
		return s, false
	}
	var c rc4.Cipher
	c.Init(mixed(b[hashLen:headLen], k.recv[:]))
	b = b[headLen:]
	c.XOR(b)
	if b, ok = unpadded(b); !ok || len(b) < bodyLen {
		return s, false
	}
	s.myTick = binary.BigEndian.Uint64(b)
	s.yourTick = binary.BigEndian.Uint64(b[8:])
	s.complete = binary.BigEndian.Uint64(b[16:])
	n := int(min(binary.BigEndian.Uint32(b[24:]), window+1))
	if b = b[28:]; n > window || len(b) < 8*n+8 {
		return s, false
	}
	s.packed, b = b[:8*n], b[8*n:]
	s.seq, s.data = binary.BigEndian.Uint64(b), b[8:]
	return s, true
}

// signed checks a signature without leaving a trace in b.
func signed(b []byte, key hash, mask *hash) bool {
	var sign hash
	copy(sign[:], b)
	copy(b, key[:])
	want := sha1.Sum(b)
	copy(b, sign[:])
	if mask != nil {
		subtle.XORBytes(want[:], want[:], mask[:])
	}
	return subtle.ConstantTimeCompare(sign[:], want[:]) == 1
}

func unpadded(b []byte) ([]byte, bool) {
	if len(b) == 0 {
		return nil, false
	}
	n := int(b[len(b)-1])
	if n == 0 || n > len(b) {
		return nil, false
	}
	return b[:len(b)-n], true
}

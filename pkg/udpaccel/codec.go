package udpaccel

import (
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"

	"softether-go/pkg/rc4"
)

// A Version is how datagrams are protected.
type Version int

const (
	Plain Version = 0 // not at all; only if the session's TCP is in the clear too
	V1    Version = 1 // RC4 with a key for each datagram, and zeros as the check
	V2    Version = 2 // ChaCha20-Poly1305

	// MaxVersion is the latest there is.
	MaxVersion = V2
)

// String names the version as a log line should.
func (v Version) String() string {
	return [...]string{"plain", "v1 (RC4)", "v2 (ChaCha20-Poly1305)"}[v]
}

// Lengths of the keys that the two sides exchange at login. (Cedar/UdpAccel.h)
const (
	KeyLenV1 = 20
	KeyLenV2 = 128 // of which the first 32 bytes are used
)

const (
	headerLen = 4 + 8 + 8 + 2 + 1 // cookie, my tick, your tick, size, flag
	ivLen     = 20                // of V1
	checkLen  = 20                // of V1

	// maxPad is the most padding that is sent. (UDP_ACCELERATION_MAX_PADDING_SIZE - 1)
	maxPad = 31

	// maxDatagram is the longest that is looked at. (UDP_ACCELERATION_TMP_BUF_SIZE)
	maxDatagram = 2048

	flagCompressed = 1
)

// Overhead is how much longer a datagram without padding is than its frame.
func (v Version) Overhead() int {
	switch v {
	case V1:
		return ivLen + headerLen + checkLen
	case V2:
		return chacha20poly1305.NonceSize + headerLen + chacha20poly1305.Overhead
	}
	return headerLen
}

// prefix is how long what stands before the header is.
func (v Version) prefix() int {
	switch v {
	case V1:
		return ivLen
	case V2:
		return chacha20poly1305.NonceSize
	}
	return 0
}

// maxPad is the most padding a datagram of v may have: what is plain has none.
func (v Version) maxPad() int {
	if v == Plain {
		return 0
	}
	return maxPad
}

// keyLen is the length of a key as it is exchanged.
func (v Version) keyLen() int {
	switch v {
	case V1:
		return KeyLenV1
	case V2:
		return KeyLenV2
	}
	return 0
}

// A header is what each datagram says besides its frame.
type header struct {
	myTick   uint64 // the sender's clock in ms; never 0
	yourTick uint64 // the newest of the receiver's that has come; 0 means none, or not told
	flag     byte
}

// Why a datagram is dropped.
var (
	errForged    = errors.New("not from the peer: its check is wrong")
	errCookie    = errors.New("not from the peer: its cookie is wrong")
	errTruncated = errors.New("shorter than it must be")
)

// A sealer makes datagrams. It is not safe for concurrent use.
type sealer struct {
	version Version
	cookie  uint32 // of the receiver
	key     [KeyLenV1]byte
	aead    cipher.AEAD
	nonce   [ivLen]byte // random, and at its end a counter: none is used twice
	rc4     rc4.Cipher
}

func newSealer(v Version, key []byte, cookie uint32) (*sealer, error) {
	s := &sealer{version: v, cookie: cookie}
	if len(key) < v.keyLen() {
		return nil, fmt.Errorf("a key of %d bytes, where version %d has %d", len(key), v, v.keyLen())
	}
	rand.Read(s.nonce[:])
	switch v {
	case V1:
		copy(s.key[:], key)
	case V2:
		aead, err := chacha20poly1305.New(key[:chacha20poly1305.KeySize])
		if err != nil {
			return nil, err
		}
		s.aead = aead
	}
	return s, nil
}

// append appends a datagram to b: the header, a frame or none, and so much padding.
func (s *sealer) append(b []byte, h header, frame []byte, pad int) []byte {
	start := len(b)
	prefix := s.nextPrefix()
	b = append(b, prefix...)
	b = binary.BigEndian.AppendUint32(b, s.cookie)
	b = binary.BigEndian.AppendUint64(b, h.myTick)
	b = binary.BigEndian.AppendUint64(b, h.yourTick)
	b = binary.BigEndian.AppendUint16(b, uint16(len(frame)))
	b = append(b, h.flag)
	b = append(b, frame...)
	b = append(b, zeros[:min(pad, s.version.maxPad())]...)
	inner := start + len(prefix)
	switch s.version {
	case V1:
		b = append(b, zeros[:checkLen]...)
		s.rc4.Init(keyV1(&s.key, prefix))
		s.rc4.XOR(b[inner:])
	case V2:
		b = s.aead.Seal(b[:inner], prefix, b[inner:], nil)
	}
	return b
}

var zeros [max(maxPad, checkLen)]byte

// nextPrefix returns the nonce of the next datagram. The counter is at the end of
// what the version uses of it.
func (s *sealer) nextPrefix() []byte {
	n := s.version.prefix()
	if n == 0 {
		return nil
	}
	at := s.nonce[n-8 : n]
	binary.BigEndian.PutUint64(at, binary.BigEndian.Uint64(at)+1)
	return s.nonce[:n]
}

// keyV1 is the key of one datagram. (Cedar/UdpAccel.c, UdpAccelCalcKeyV1)
func keyV1(key *[KeyLenV1]byte, iv []byte) [sha1.Size]byte {
	var both [KeyLenV1 + ivLen]byte
	copy(both[:], key[:])
	copy(both[KeyLenV1:], iv)
	return sha1.Sum(both[:])
}

// An opener reads datagrams. It is not safe for concurrent use.
type opener struct {
	version Version
	cookie  uint32 // our own
	key     [KeyLenV1]byte
	aead    cipher.AEAD
	rc4     rc4.Cipher
}

func newOpener(v Version, key []byte, cookie uint32) (*opener, error) {
	s, err := newSealer(v, key, cookie)
	if err != nil {
		return nil, err
	}
	return &opener{version: v, cookie: cookie, key: s.key, aead: s.aead}, nil
}

// open decrypts d in place and returns what it says; the frame is a view of d.
func (o *opener) open(d []byte) (h header, frame []byte, err error) {
	n := o.version.prefix()
	if len(d) < o.version.Overhead() {
		return h, nil, errTruncated
	}
	prefix, inner := d[:n], d[n:]
	switch o.version {
	case V1:
		o.rc4.Init(keyV1(&o.key, prefix))
		o.rc4.XOR(inner)
		check := inner[len(inner)-checkLen:]
		inner = inner[:len(inner)-checkLen]
		if [checkLen]byte(check) != [checkLen]byte{} {
			return h, nil, errForged
		}
	case V2:
		if inner, err = o.aead.Open(inner[:0], prefix, inner, nil); err != nil {
			return h, nil, errForged
		}
	}
	if binary.BigEndian.Uint32(inner) != o.cookie {
		return h, nil, errCookie
	}
	h.myTick = binary.BigEndian.Uint64(inner[4:])
	h.yourTick = binary.BigEndian.Uint64(inner[12:])
	size := int(binary.BigEndian.Uint16(inner[20:]))
	h.flag = inner[22]
	if size > len(inner)-headerLen {
		return h, nil, errTruncated
	}
	return h, inner[headerLen : headerLen+size : headerLen+size], nil
}

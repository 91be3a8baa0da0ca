package rudp

import (
	"crypto/rand"
	"crypto/sha1"
	"encoding/binary"
	"encoding/hex"
	mathrand "math/rand/v2"
	"strings"
)

// A Carrier is how datagrams are dressed.
type Carrier interface {
	// String is the network's name in addresses.
	String() string
	// open returns what to send to open a stream.
	open(opening []byte) [][]byte
	// wrap dresses a datagram, by appending to dst or as it is.
	wrap(dst, b []byte) []byte
	// unwrap undresses the server's.
	unwrap(b []byte) ([]byte, bool)
	// mask is what signatures are masked with; nil means they are not.
	mask() *hash
}

// service masks signatures where the datagrams of others are received too.
// (Cedar/Cedar.h, VPN_RUDP_SVC_NAME; its SHA-1 in lower case)
var service = sha1.Sum([]byte(strings.ToLower("SoftEther_VPN")))

// Direct sends datagrams as they are.
type Direct struct{}

func (Direct) String() string                 { return "rudp" }
func (Direct) open(b []byte) [][]byte         { return [][]byte{b} }
func (Direct) wrap(_, b []byte) []byte        { return b }
func (Direct) unwrap(b []byte) ([]byte, bool) { return b, true }
func (Direct) mask() *hash                    { return nil }

// DNS sends datagrams as questions for a record of an invented name, and takes them
// from answers. It passes firewalls that let questions through to any name server, not
// name servers, which would ask somebody else.
type DNS struct{}

func (DNS) String() string           { return "rudp-dns" }
func (c DNS) open(b []byte) [][]byte { return [][]byte{c.wrap(nil, b)} }
func (DNS) mask() *hash              { return &service }
func (DNS) wrap(dst, b []byte) []byte {
	var name [4]byte
	rand.Read(name[:])
	dst = binary.BigEndian.AppendUint16(dst, uint16(1+mathrand.IntN(65535)))
	dst = append(dst, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1, 8) // recursion wanted; one question, one addition
	dst = hex.AppendEncode(dst, name[:])
	dst = append(dst, 0, 0, 48, 0, 1)                // a DNSKEY in class IN (RFC 4034)
	dst = append(dst, 0, 0, 41, 16, 0, 0, 0, 128, 0) // EDNS0: 4096 bytes, DNSSEC wanted (RFC 6891)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(b)))
	return append(dst, b...)
}

// dnsAnswerLen is what comes before the server's bytes: a header, the question and an
// answer's head. (Mayaqua/Network.c, RUDPMainThread)
const dnsAnswerLen = 42

func (DNS) unwrap(b []byte) ([]byte, bool) {
	if len(b) <= dnsAnswerLen || b[2]&0x80 == 0 {
		return nil, false
	}
	return b[dnsAnswerLen:], true
}

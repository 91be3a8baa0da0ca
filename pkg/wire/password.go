package wire

import (
	"encoding/binary"
	"math/bits"
	"unicode/utf16"

	"golang.org/x/crypto/md4" //lint:ignore SA1019 the protocol is the only reason to have it

	"softether-go/pkg/pack"
)

// HashLen is the length of every hash, challenge and key of the negotiation.
const HashLen = 20

// PasswordHash is what a server stores for a user: SHA-0 of the password and the
// user name in upper case. It is as good as the password for logging in.
// (Cedar/Account.c, HashPassword)
func PasswordHash(user, password string) [HashLen]byte {
	return sha0([]byte(password + upper(user)))
}

// AnswerChallenge returns what is sent in place of a password: SHA-0 of its hash
// and the server's random. (Cedar/Sam.c, SecurePassword)
func AnswerChallenge(hash [HashLen]byte, random []byte) [HashLen]byte {
	return sha0(append(hash[:len(hash):len(hash)], random...))
}

// A PasswordChange asks to store another password for a user. It comes in the place
// of a Login. (Cedar/Protocol.c, ChangePassword)
type PasswordChange struct {
	Hub, User string
	Old       [HashLen]byte // AnswerChallenge's result for the old password
	New       [HashLen]byte // PasswordHash of the new one
	NewNT     [16]byte      // NTHash of the new one
}

// NTHash is what the server's L2TP and SSTP sides know a password by; without it in a
// change, the user could no longer log in to those. (Mayaqua/Encrypt.c,
// GenerateNtPasswordHash; MS-NLMP §3.3.1)
func NTHash(password string) (sum [16]byte) {
	h := md4.New()
	for _, unit := range utf16.Encode([]rune(password)) {
		h.Write([]byte{byte(unit), byte(unit >> 8)})
	}
	h.Sum(sum[:0])
	return sum
}

// Pack returns c as it is sent.
func (c PasswordChange) Pack() *pack.Pack {
	p := &pack.Pack{}
	p.SetStr("method", MethodPassword)
	p.SetStr("hubname", c.Hub)
	p.SetStr("username", c.User)
	p.SetData("secure_old_password", c.Old[:])
	p.SetData("new_password", c.New[:])
	p.SetData("new_password_ntlm", c.NewNT[:])
	return p
}

// upper maps a to z only, as the protocol does.
func upper(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'a' <= c && c <= 'z' {
			b[i] = c - 'a' + 'A'
		}
	}
	return string(b)
}

// sha0 is the withdrawn FIPS 180 hash: SHA-1 without the rotation of the message
// schedule. The protocol is the only reason to have it. (Mayaqua/Encrypt.c, Sha0)
func sha0(msg []byte) [HashLen]byte {
	h := [5]uint32{0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0}
	padded := append(msg[:len(msg):len(msg)], 0x80)
	for len(padded)%64 != 56 {
		padded = append(padded, 0)
	}
	padded = binary.BigEndian.AppendUint64(padded, uint64(len(msg))*8)
	for ; len(padded) > 0; padded = padded[64:] {
		sha0Block(&h, padded[:64])
	}
	var sum [HashLen]byte
	for i, v := range h {
		binary.BigEndian.PutUint32(sum[4*i:], v)
	}
	return sum
}

func sha0Block(h *[5]uint32, block []byte) {
	var w [80]uint32
	for i := range 16 {
		w[i] = binary.BigEndian.Uint32(block[4*i:])
	}
	for i := 16; i < 80; i++ {
		w[i] = w[i-3] ^ w[i-8] ^ w[i-14] ^ w[i-16] // SHA-1 rotates this by one
	}
	a, b, c, d, e := h[0], h[1], h[2], h[3], h[4]
	for i, x := range w {
		var f, k uint32
		switch i / 20 {
		case 0:
			f, k = b&c|^b&d, 0x5a827999
		case 1:
			f, k = b^c^d, 0x6ed9eba1
		case 2:
			f, k = b&c|b&d|c&d, 0x8f1bbcdc
		default:
			f, k = b^c^d, 0xca62c1d6
		}
		t := bits.RotateLeft32(a, 5) + f + e + k + x
		a, b, c, d, e = t, a, bits.RotateLeft32(b, 30), c, d
	}
	h[0], h[1], h[2], h[3], h[4] = h[0]+a, h[1]+b, h[2]+c, h[3]+d, h[4]+e
}

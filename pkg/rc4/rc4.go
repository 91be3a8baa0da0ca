// Package rc4 is the stream cipher of that name, for protocols that have a key for each
// datagram.
//
// # Theory of operation
//
// The standard library allocates a cipher for each key. A Cipher here is a value that is
// given one key after the other. RC4 is broken, and hides nothing from those who care;
// it is what older SoftEther servers speak.
package rc4

import "crypto/sha1"

// A Cipher is ready once it has a key.
type Cipher struct {
	s    [256]uint32 // words, which are faster than bytes
	i, j uint8
}

// Init begins anew with a key, which in these protocols is always a hash.
func (c *Cipher) Init(key [sha1.Size]byte) {
	for i := range c.s {
		c.s[i] = uint32(i)
	}
	var j uint8
	for i := range c.s {
		j += uint8(c.s[i]) + key[i%len(key)]
		c.s[i], c.s[j] = c.s[j], c.s[i]
	}
	c.i, c.j = 0, 0
}

// XOR encrypts or decrypts b in place.
func (c *Cipher) XOR(b []byte) {
	i, j := c.i, c.j
	for k := range b {
		i++
		x := c.s[i]
		j += uint8(x)
		y := c.s[j]
		c.s[i], c.s[j] = y, x
		b[k] ^= uint8(c.s[uint8(x+y)])
	}
	c.i, c.j = i, j
}

// Package inet knows the headers of the Internet's protocols, as far as more than one room
// builds or reads them: the checksum, IPv4, UDP, and ARP for it.
//
// # Theory of operation
//
// It works on packets, which are what a frame carries; whoever has a frame takes its payload.
// Readers look at bytes from anybody and check once what they say they check. Builders
// write into memory that is the caller's. Nothing here keeps what it is given, and nothing
// allocates.
package inet

import (
	"encoding/binary"
	"math/bits"
)

// The internet checksum (RFC 1071) is the complement of a ones' complement sum of
// 16-bit words. Two of its properties carry this file:
//
//   - Words may be added in any grouping, so eight bytes are added at a time and
//     the carry goes round (the sum modulo 2^64-1 is also right modulo 2^16-1).
//   - Words may be added in either byte order; the result is then in that order.
//     Adding in little-endian order spares a swap per word on most machines.
//
// Sums are handed about, also by other rooms, as a uint64 in network order that holds a few folded sums
// on top of each other, never more than a few dozen, and is folded at the end.

// Sum returns the ones' complement sum of b, in network order, at most 0xffff.
// A last odd byte counts as if a zero followed it.
func Sum(b []byte) uint64 {
	var acc, c uint64
	i := 0
	for ; i <= len(b)-64; i += 64 {
		w := (*[64]byte)(b[i:])
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[0:]), 0)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[8:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[16:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[24:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[32:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[40:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[48:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[56:]), c)
		acc += c // cannot wrap: after a carry acc is below 1<<64 - 1
	}
	for ; i <= len(b)-8; i += 8 {
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(b[i:]), 0)
		acc += c
	}
	acc, c = bits.Add64(acc, tail(b[i:]), 0)
	return networkOrder(acc, c)
}

// tail returns the fewer than eight bytes of b as one little-endian word.
func tail(b []byte) (w uint64) {
	if len(b) >= 4 {
		w = uint64(binary.LittleEndian.Uint32(b))
		b = b[4:]
		switch len(b) {
		case 1:
			return w | uint64(b[0])<<32
		case 2:
			return w | uint64(binary.LittleEndian.Uint16(b))<<32
		case 3:
			return w | uint64(binary.LittleEndian.Uint16(b))<<32 | uint64(b[2])<<48
		}
		return w
	}
	switch len(b) {
	case 1:
		return uint64(b[0])
	case 2:
		return uint64(binary.LittleEndian.Uint16(b))
	case 3:
		return uint64(binary.LittleEndian.Uint16(b)) | uint64(b[2])<<16
	}
	return 0
}

// networkOrder folds a little-endian accumulator and its carry.
func networkOrder(acc, carry uint64) uint64 {
	acc, carry = bits.Add64(acc, 0, carry)
	return uint64(bits.ReverseBytes16(Fold(acc + carry)))
}

// Fold brings a sum down to 16 bits. It is zero only for zero: a ones' complement
// sum of anything else that comes to zero is written 0xffff.
func Fold(s uint64) uint16 {
	s = s>>32 + s&0xffffffff
	s = s>>32 + s&0xffffffff
	s = s>>16 + s&0xffff
	s = s>>16 + s&0xffff
	return uint16(s>>16 + s&0xffff)
}

// Checksum returns the checksum of b, which is in order if that is zero.
func Checksum(b []byte) uint16 { return ^Fold(Sum(b)) }

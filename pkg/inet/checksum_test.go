package inet

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// naiveSum is the definition in RFC 1071, word by word.
func naiveSum(b []byte) uint16 {
	var s uint32
	for i, x := range b {
		if i%2 == 0 {
			s += uint32(x) << 8
		} else {
			s += uint32(x)
		}
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

func TestSumIsThatOfTheDefinition(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	long := make([]byte, 66000)
	for i := range long {
		long[i] = byte(r.Uint32())
	}
	ones := make([]byte, 66000)
	for i := range ones {
		ones[i] = 0xff
	}
	for _, src := range [][]byte{long, ones, make([]byte, 300)} {
		lengths := []int{1447, 1448, 1449, 1500, 65535, len(src)}
		for n := range 300 {
			lengths = append(lengths, n)
		}
		for _, n := range lengths {
			if n <= len(src) {
				checkSums(t, src[:n])
			}
		}
	}
}

// checkSums compares the sum of b, at several alignments, with the definition.
func checkSums(t *testing.T, b []byte) {
	t.Helper()
	for shift := range 3 {
		shift = min(shift, len(b))
		got, want := Fold(Sum(b[shift:])), naiveSum(b[shift:])
		if got != want {
			t.Fatalf("sum of %d bytes from %d: got %#04x, want %#04x", len(b), shift, got, want)
		}
	}
}

func FuzzSum(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{1})
	f.Add([]byte{0xff, 0xff, 0, 0, 0xff})
	f.Add([]byte("a sum of sixty-four bytes and then some, long enough for the widest of the loops, and odd"))
	f.Fuzz(func(t *testing.T, b []byte) { checkSums(t, b) })
}

func BenchmarkSum(b *testing.B) {
	for _, n := range []int{20, 64, 1448, 65536} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			src := make([]byte, n)
			b.SetBytes(int64(n))
			for b.Loop() {
				Sum(src)
			}
		})
	}
}

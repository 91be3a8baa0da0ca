package rc4

import (
	"bytes"
	"crypto/rand"
	"crypto/rc4"
	"crypto/sha1"
	"testing"
)

func TestItIsTheStandardLibrarys(t *testing.T) {
	var c Cipher
	for range 20 { // one after the other, as each begins anew
		var key [sha1.Size]byte
		rand.Read(key[:])
		std, err := rc4.NewCipher(key[:])
		if err != nil {
			t.Fatal(err)
		}
		got, want := make([]byte, 3000), make([]byte, 3000)
		std.XORKeyStream(want, want)
		c.Init(key)
		c.XOR(got[:7])
		c.XOR(got[7:])
		if !bytes.Equal(got, want) {
			t.Fatalf("with the key %x: another stream", key)
		}
	}
}

func TestNothingIsAllocated(t *testing.T) {
	b := make([]byte, 1500)
	if n := testing.AllocsPerRun(100, func() {
		var c Cipher
		c.Init([sha1.Size]byte{1})
		c.XOR(b)
	}); n != 0 {
		t.Errorf("%v allocations a datagram", n)
	}
}

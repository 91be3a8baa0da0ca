package udpaccel

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"softether-go/pkg/leaktest"
)

func TestMain(m *testing.M) { os.Exit(leaktest.Run(m)) }

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// count returns n bytes from first on.
func count(first byte, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = first + byte(i)
	}
	return b
}

const (
	testCookie = 0x01020304

	vectorV1 = "808182838485868788898a8b8c8d8e8f90919293 a0849c3ddf94b8a2668b0b4c718384acac050b67289e750e51c747b7504eae7dcaa3440c81d245850766ccd7a1d471"
	vectorV2 = "a0a1a2a3a4a5a6a7a8a9aaab 0da97b5b4de6c2ada00ff0fcfcfafdfb9d5ed3bf436e60e7f58c9af520083b633de44be239d5d9ed6f38a8"
)

// at makes a sealer whose next nonce is that one.
func (s *sealer) at(nonce []byte) *sealer {
	copy(s.nonce[:], nonce)
	n := s.version.prefix()
	for i := n - 1; i >= n-8; i-- { // nextPrefix adds one
		s.nonce[i]--
		if s.nonce[i] != 0xff {
			break
		}
	}
	return s
}

// Proves that both ends agree with the reference implementation's datagrams.
func TestVectors(t *testing.T) {
	for _, row := range []struct {
		version Version
		nonce   []byte
		packet  string
	}{
		{V1, count(0x80, 20), vectorV1},
		{V2, count(0xa0, 12), vectorV2},
	} {
		t.Run(row.version.String(), func(t *testing.T) {
			want, key := unhex(t, row.packet), count(0, row.version.keyLen())
			s, err := newSealer(row.version, key, testCookie)
			if err != nil {
				t.Fatal(err)
			}
			got := s.at(row.nonce).append(nil, header{myTick: 1000}, []byte("DATA"), 0)
			if !bytes.Equal(got, want) {
				t.Errorf("sealed: got %x, want %x", got, want)
			}
			o, err := newOpener(row.version, key, testCookie)
			if err != nil {
				t.Fatal(err)
			}
			h, frame, err := o.open(bytes.Clone(want))
			if err != nil || h != (header{myTick: 1000}) || string(frame) != "DATA" {
				t.Errorf("opened: got %+v %q %v, want tick 1000 and DATA", h, frame, err)
			}
		})
	}
}

func TestKeyOfADatagram(t *testing.T) {
	got := keyV1((*[KeyLenV1]byte)(count(0, 20)), count(0x80, 20))
	if want := unhex(t, "78b7a27345c52824205d81049033e0c04b5455d2"); !bytes.Equal(got[:], want) {
		t.Errorf("got %x, want %x", got, want)
	}
}

var versions = []Version{Plain, V1, V2}

func pairOf(t testing.TB, v Version) (*sealer, *opener) {
	t.Helper()
	key := count(7, v.keyLen())
	s, err := newSealer(v, key, testCookie)
	if err != nil {
		t.Fatal(err)
	}
	o, err := newOpener(v, key, testCookie)
	if err != nil {
		t.Fatal(err)
	}
	return s, o
}

func TestRoundTrips(t *testing.T) {
	for _, v := range versions {
		s, o := pairOf(t, v)
		for size := 0; size <= 1600; size += 37 {
			for _, pad := range []int{0, 1, 31, 1000} {
				frame, h := count(1, size), header{myTick: uint64(size) + 1, yourTick: 5, flag: byte(pad & 1)}
				d := s.append(nil, h, frame, pad)
				if got, want := len(d), size+v.Overhead()+min(pad, v.maxPad()); got != want {
					t.Errorf("%v: length: got %d, want %d", v, got, want)
				}
				got, data, err := o.open(d)
				if err != nil || got != h || !bytes.Equal(data, frame) {
					t.Fatalf("%v, %d bytes, padding %d: got %+v, %d bytes, %v", v, size, pad, got, len(data), err)
				}
			}
		}
	}
}

func TestNoNonceTwice(t *testing.T) {
	for _, v := range []Version{V1, V2} {
		s, _ := pairOf(t, v)
		seen := map[string]bool{}
		for range 1000 {
			seen[string(s.append(nil, header{myTick: 1}, nil, 0)[:v.prefix()])] = true
		}
		if len(seen) != 1000 {
			t.Errorf("%v: got %d nonces of 1000 datagrams", v, len(seen))
		}
	}
}

// Proves that every datagram cut short is told from a good one, and every changed bit
// where there is protection.
func TestDamage(t *testing.T) {
	for _, v := range versions {
		s, o := pairOf(t, v)
		whole := s.append(nil, header{myTick: 1}, []byte("a frame of some bytes"), 0) // zeros that pad are a check too
		for n := range whole {
			if _, _, err := o.open(bytes.Clone(whole[:n])); err == nil && v != Plain {
				t.Errorf("%v: cut to %d of %d bytes: opened", v, n, len(whole))
			} else if n < v.Overhead() && !errors.Is(err, errTruncated) {
				t.Errorf("%v: cut to %d bytes: got %v, want %v", v, n, err, errTruncated)
			}
		}
		if v != V2 { // RC4 without a real check lets changed bits through
			continue
		}
		for n := range whole {
			d := bytes.Clone(whole)
			d[n] ^= 0x10
			if _, _, err := o.open(d); !errors.Is(err, errForged) {
				t.Errorf("%v: byte %d changed: got %v, want %v", v, n, err, errForged)
			}
		}
	}
}

func TestWhatIsNotForUs(t *testing.T) {
	for _, v := range versions {
		_, o := pairOf(t, v)
		other, err := newSealer(v, count(7, v.keyLen()), testCookie+1)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := o.open(other.append(nil, header{myTick: 1}, nil, 0)); !errors.Is(err, errCookie) {
			t.Errorf("%v: another's cookie: got %v, want %v", v, err, errCookie)
		}
		long, _ := pairOf(t, v)
		d := long.append(nil, header{myTick: 1}, []byte("abc"), 0)
		if v == Plain {
			d[21] = 200 // more than there is
			if _, _, err := o.open(d); !errors.Is(err, errTruncated) {
				t.Errorf("a size beyond the end: got %v, want %v", err, errTruncated)
			}
			continue
		}
		stranger, _ := newSealer(v, count(9, v.keyLen()), testCookie)
		if _, _, err := o.open(stranger.append(nil, header{myTick: 1}, nil, 0)); !errors.Is(err, errForged) {
			t.Errorf("%v: another's key: got %v, want %v", v, err, errForged)
		}
	}
}

func TestShortKeysAreRefused(t *testing.T) {
	for _, v := range []Version{V1, V2} {
		if _, err := newSealer(v, make([]byte, v.keyLen()-1), 1); err == nil {
			t.Errorf("%v: a short key was taken", v)
		}
	}
}

func FuzzOpen(f *testing.F) {
	for _, v := range versions {
		s, _ := pairOf(f, v)
		f.Add(int(v), s.append(nil, header{myTick: 1}, []byte("frame"), 3))
	}
	f.Add(1, unhex(f, vectorV1))
	f.Add(2, unhex(f, vectorV2))
	f.Add(0, []byte{})
	f.Fuzz(func(t *testing.T, version int, d []byte) {
		v := Version(uint(version) % 3)
		_, o := pairOf(t, v)
		_, frame, err := o.open(d)
		if err == nil && len(frame) > len(d)-v.Overhead() {
			t.Errorf("%v: a frame of %d bytes in a datagram of %d", v, len(frame), len(d))
		}
	})
}

func TestSealingAndOpeningAllocateNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	for _, v := range versions {
		s, o := pairOf(t, v)
		buf, frame := make([]byte, 0, 4096), count(1, 1400)
		n := testing.AllocsPerRun(100, func() {
			d := s.append(buf, header{myTick: 1}, frame, 9)
			if _, _, err := o.open(d); err != nil {
				t.Fatal(err)
			}
		})
		if n != 0 {
			t.Errorf("%v: got %v allocations for a datagram, want 0", v, n)
		}
	}
}

func BenchmarkCodec(b *testing.B) {
	for _, v := range versions {
		for _, size := range []int{60, 1323} {
			s, o := pairOf(b, v)
			buf, frame := make([]byte, 0, 4096), count(1, size)
			b.Run(fmt.Sprintf("%d/%d", v, size), func(b *testing.B) {
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					d := s.append(buf, header{myTick: 1}, frame, 0)
					if _, _, err := o.open(d); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

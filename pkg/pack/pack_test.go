package pack

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// vector is the byte string that a real server's library wrote for sample.
const vector = "00000005" +
	"00000006" + "6572726f72" + "00000000" + "00000001" + "00000000" +
	"0000000a" + "646972656374696f6e" + "00000000" + "00000001" + "00000002" +
	"00000002" + "6b" + "00000001" + "00000001" + "00000002" + "0102" +
	"00000002" + "73" + "00000002" + "00000001" + "00000002" + "6162" +
	"00000002" + "71" + "00000000" + "00000002" + "00000005" + "00000006"

func sample() *Pack {
	p := &Pack{}
	p.SetInt("error", 0)
	p.SetInt("direction", 2)
	p.SetData("k", []byte{1, 2})
	p.SetStr("s", "ab")
	p.SetInt("q", 5, 6)
	return p
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAppendWritesTheKnownVector(t *testing.T) {
	if got := hex.EncodeToString(sample().Append(nil)); got != vector {
		t.Errorf("got  %s\nwant %s", got, vector)
	}
}

func TestDecodeReadsTheKnownVector(t *testing.T) {
	p, err := Decode(unhex(t, vector))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sample().Elements(), p.Elements()); diff != "" {
		t.Errorf("elements (-want +got):\n%s", diff)
	}
	if got := p.Ints("Q"); !cmp.Equal(got, []uint32{5, 6}) {
		t.Errorf("Ints(Q) = %v, want 5 6: names ignore case", got)
	}
}

func TestEveryShortPrefixIsRefused(t *testing.T) {
	whole := unhex(t, vector)
	for n := range whole {
		if _, err := Decode(whole[:n]); err == nil {
			t.Errorf("prefix of %d bytes was accepted", n)
		}
	}
}

func TestTrailingBytesAreIgnored(t *testing.T) {
	if _, err := Decode(append(unhex(t, vector), 1, 2, 3)); err != nil {
		t.Error(err)
	}
}

func TestUnicodeCarriesOneNUL(t *testing.T) {
	p := &Pack{}
	p.SetUniStr("u", "é")
	want := "00000001" + "00000002" + "75" + "00000003" + "00000001" + "00000003" + "c3a9" + "00"
	b := p.Append(nil)
	if got := hex.EncodeToString(b); got != want {
		t.Errorf("got %s want %s", got, want)
	}
	q, err := Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	if got := q.Str("u"); got != "é" {
		t.Errorf("Str = %q, want é", got)
	}
}

func TestAddresses(t *testing.T) {
	p := &Pack{}
	p.SetIP("v4", netip.MustParseAddr("10.99.0.2"))
	p.SetIP("v6", netip.MustParseAddr("2001:db8::1"))
	p.SetIP("none", netip.Addr{})
	if got, want := p.Int("v4"), uint32(33579786); got != want {
		t.Errorf("IPv4 on the wire: got %d, want %d", got, want)
	}
	q, err := Decode(p.Append(nil))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"v4": "10.99.0.2", "v6": "2001:db8::1", "none": "invalid IP", "absent": "invalid IP"} {
		if got := q.IP(name).String(); got != want {
			t.Errorf("IP(%s) = %s, want %s", name, got, want)
		}
	}
}

func TestWrongTypeReadsAsAbsent(t *testing.T) {
	p := sample()
	if p.Data("error") != nil || p.Str("k") != "" || p.Int("s") != 0 || p.Ints("s") != nil {
		t.Error("a getter of another type returned a value")
	}
	p.SetInt64("big", 1<<40)
	if p.Int("big") != 0 {
		t.Error("Int read an Int64")
	}
}

func TestHostileInputIsRefused(t *testing.T) {
	one := &Pack{}
	one.SetInt("a", 1)
	body := one.Append(nil)[4:]
	for name, in := range map[string][]byte{
		"a billion elements":  unhex(t, "3b9aca00"),
		"a billion values":    unhex(t, "00000001"+"00000002"+"61"+"00000000"+"3b9aca00"),
		"name length 0":       unhex(t, "00000001"+"00000000"+"00000000"+"00000000"),
		"name length 65":      append(unhex(t, "0000000100000041"), bytes.Repeat([]byte{'x'}, 80)...),
		"unknown type":        unhex(t, "00000001"+"00000002"+"61"+"00000005"+"00000001"+"00000000"),
		"value beyond end":    unhex(t, "00000001"+"00000002"+"61"+"00000001"+"00000001"+"ffffffff"+"00"),
		"two of the same":     append(append(unhex(t, "00000002"), body...), body...),
		"two of another case": append(append(unhex(t, "00000002"), body...), bytes.ToUpper(body)...),
	} {
		if p, err := Decode(in); err == nil {
			t.Errorf("%s: accepted as %+v", name, p)
		} else if !strings.HasPrefix(err.Error(), "pack: ") {
			t.Errorf("%s: error %q does not name the package", name, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(sample().Append(nil))
	f.Add([]byte{0, 0, 0, 0})
	f.Add([]byte{0, 0, 0, 1, 0, 0, 0, 2, 'a', 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9})
	f.Fuzz(func(t *testing.T, in []byte) {
		p, err := Decode(in)
		if err != nil {
			return
		}
		out := p.Append(nil)
		q, err := Decode(out)
		if err != nil {
			t.Fatalf("own encoding refused: %v", err)
		}
		if !bytes.Equal(q.Append(nil), out) {
			t.Fatal("encoding is not stable")
		}
		for _, e := range p.Elements() {
			p.Int(e.Name)
			p.Data(e.Name)
			p.Str(e.Name)
			p.IP(e.Name)
		}
	})
}

package proxy

import (
	"bytes"
	"testing"

	"github.com/things-go/go-socks5/statute"
)

// What is understood is what the codec understands, and an address's header is made as it
// is read.
func FuzzDatagram(f *testing.F) {
	for _, seed := range []string{"", to4, to4 + "data", to6 + "data", toHost("files.corp") + "data", toHost(""), "\x00\x00\x01\x01", "\x00\x00\x00\x02abcdefgh", "\x00\x00\x00\x03\xff"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d, ok := parseDatagram(b)
		ref, err := statute.ParseDatagram(b)
		if err == nil && !ok {
			t.Fatalf("not understood, though the codec has %+v", ref)
		}
		if !ok {
			return
		}
		// The codec wants a byte of data after IPv6 and names, and ten bytes in all.
		if err != nil && len(d.data) > 0 && len(b) >= 10 {
			t.Fatalf("understood as %+v, though the codec says %v", d, err)
		}
		if err == nil && (!bytes.Equal(d.data, ref.Data) || d.fragment != ref.Frag || string(d.name) != ref.DstAddr.FQDN || int(d.to.Port()) != ref.DstAddr.Port) {
			t.Fatalf("got %+v, the codec has %+v", d, ref)
		}
		if d.name != nil {
			return
		}
		const at = headerIPv6
		out := append(make([]byte, at), d.data...)
		begin := putHeader(out, at, d.to)
		again, ok := parseDatagram(out[begin:])
		if !ok || again.to != d.to || !bytes.Equal(again.data, d.data) || again.fragment != 0 {
			t.Fatalf("made anew: got %+v, want %+v", again, d)
		}
	})
}

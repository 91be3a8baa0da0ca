package offload

import "testing"

func TestVerdicts(t *testing.T) {
	spoil := func(p *packet) { p.badL4 = true }
	ext := func(p *packet) {
		p.v6, p.extProto, p.ext = true, protoDestination, []byte{protoTCP, 0, 1, 4, 0, 0, 0, 0}
	}
	routed := func(left byte) func(*packet) {
		return func(p *packet) {
			p.v6, p.extProto, p.ext = true, protoRouting, []byte{protoTCP, 0, 3, left, 0, 0, 0, 0}
		}
	}
	for _, tt := range []struct {
		name  string
		frame []byte
		want  Verdict
	}{
		{"a segment", tcp(0, 100).frame(), Correct},
		{"an odd segment, padded", tcp(0, 1).with(func(p *packet) { p.pad = 5 }).frame(), Correct},
		{"an acknowledgement", packet{}.frame(), Correct},
		{"a wrong segment", tcp(0, 100).with(spoil).frame(), Wrong},
		{"a wrong acknowledgement", packet{badL4: true}.frame(), Wrong},
		{"a wrong IPv4 header", packet{badIP: true}.frame(), Wrong},
		{"IPv4 options", packet{options: []byte{1, 1, 1, 1}}.frame(), Correct},
		{"IPv4 options, wrong", packet{options: []byte{1, 1, 1, 1}, badL4: true}.frame(), Wrong},
		{"a datagram over IPv6", udp(0, 100).with(six).frame(), Correct},
		{"a datagram without checksum", udp(0, 9).with(func(p *packet) { p.noCsum = true }).frame(), Correct},
		{"one over IPv6", udp(0, 9).with(six).with(func(p *packet) { p.noCsum = true }).frame(), Wrong},
		{"a datagram shorter than its packet", udp(0, 9).with(func(p *packet) { p.slack = []byte{1, 2, 3} }).frame(), Correct},
		{"a datagram shorter than its header", udp(0, 9).with(func(p *packet) { p.transfer = func(f []byte) { f[39] = 7 } }).frame(), Unverified},
		{"a datagram longer than its packet", udp(0, 9).with(func(p *packet) { p.transfer = func(f []byte) { f[39]++ } }).frame(), Unverified},
		{"an extension header", tcp(0, 9).with(ext).frame(), Correct},
		{"an extension header, wrong", tcp(0, 9).with(ext).with(spoil).frame(), Wrong},
		{"a routing header at its end", tcp(0, 9).with(routed(0)).frame(), Correct},
		{"a routing header on its way", tcp(0, 9).with(routed(1)).frame(), Unverified},
		{"a fragment", tcp(0, 9).with(func(p *packet) { p.frag = moreFragments }).frame(), Unverified},
		{"a fragment with a wrong header", tcp(0, 9).with(func(p *packet) { p.frag, p.badIP = moreFragments, true }).frame(), Wrong},
		{"ICMP with a wrong header", packet{badIP: true, transfer: func(f []byte) { f[23] = 1 }}.frame(), Wrong},
		{"no IP", text(60, 1), Unverified},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := Verify(tt.frame); got != tt.want {
				t.Errorf("Verify: got %v, want %v", got, tt.want)
			}
			c := Coalescer{VerifyAll: true}
			if got := merge(&c, [][]byte{tt.frame})[0].Checksums; got != tt.want {
				t.Errorf("Coalescer: got %v, want %v", got, tt.want)
			}
		})
	}
}

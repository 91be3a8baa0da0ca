package offload

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
)

// The reference: what the package comment promises, checked frame by frame with
// none of the package's own code.

// checkEqual checks what the package comment promises: cut again, what came out is,
// flow by flow, what went in.
func checkEqual(t testing.TB, in [][]byte, out []Super) {
	t.Helper()
	pending := map[string][]int{} // indexes into in, by flow
	for i, f := range in {
		key := dissect(f).key
		pending[key] = append(pending[key], i)
	}
	var order []int // of the frames in out
	for _, s := range out {
		for _, f := range naiveSplit(s) {
			key := dissect(f).key
			if len(pending[key]) == 0 {
				t.Fatalf("a frame came out that did not go in: %x", f)
			}
			i := pending[key][0]
			pending[key] = pending[key][1:]
			order = append(order, i)
			want := in[i]
			if s.Frames() > 1 {
				want, f = essence(want), essence(f)
			}
			if !bytes.Equal(f, want) {
				t.Fatalf("frame %d, glued with %d:\n got %x\nwant %x", i, s.Frames()-1, f, want)
			}
		}
	}
	if len(order) != len(in) {
		t.Fatalf("%d frames went in, %d came out", len(in), len(order))
	}
	checkOrder(t, in, out, order)
}

// checkOrder checks that only frames of runs and acknowledgements that stand for others
// overtake, and none a barrier.
func checkOrder(t testing.TB, in [][]byte, out []Super, order []int) {
	t.Helper()
	at := make([]int, len(order)) // position in out of each frame that went in
	for i, o := range order {
		at[o] = i
	}
	for i, f := range in {
		if dissect(f).kind != opaque {
			continue
		}
		for j := range in {
			if (j < i) != (at[j] < at[i]) && j != i {
				t.Fatalf("frame %d passed frame %d, which might be of its flow", j, i)
			}
		}
	}
	n, before := 0, -1
	for _, s := range out {
		if s.Thinned == 0 {
			if order[n] < before {
				t.Fatalf("frame %d, at the head of a run, overtook frame %d", order[n], before)
			}
			before = order[n]
		}
		n += s.Frames()
	}
}

// A dissection is what a test knows of a frame.
type dissection struct {
	kind        kind
	l3, l4, end int // end of the datagram or segment
	key         string
}

// dissect is a second opinion on layout.parse, in the order of the standards and
// without a thought for speed.
func dissect(f []byte) (d dissection) {
	if len(f) < 14 {
		return d
	}
	if d.l3 = naiveL3(append(slices.Clone(f), make([]byte, 8)...)); d.l3 > len(f) {
		return d
	}
	ip := f[d.l3:]
	var proto byte
	var packet []byte // from the transport header to the end of the packet
	switch string(f[d.l3-2 : d.l3]) {
	case "\x08\x00":
		if len(ip) < 20 || ip[0]>>4 != 4 || ip[0]&15 < 5 || len(ip) < int(ip[0]&15)*4 {
			return dissection{kind: opaque}
		}
		proto = ip[9]
		d.l4 = d.l3 + int(ip[0]&15)*4
		fragment := ip[6]&0x3f != 0 || ip[7] != 0
		length := int(ip[2])<<8 | int(ip[3])
		if proto != protoTCP && proto != protoUDP {
			return dissection{kind: foreign}
		}
		if fragment || length > len(ip) || length < d.l4-d.l3 {
			return dissection{kind: opaque}
		}
		packet = ip[d.l4-d.l3 : length]
	case "\x86\xdd":
		if len(ip) < 40 || ip[0]>>4 != 6 {
			return dissection{kind: opaque}
		}
		var k kind
		if proto, d.l4, k = dissectIPv6(f, d.l3); k != flow {
			return dissection{kind: k}
		}
		end := d.l3 + 40 + (int(ip[4])<<8 | int(ip[5]))
		if end > len(f) || end < d.l4 {
			return dissection{kind: opaque}
		}
		packet = f[d.l4:end]
	default:
		return d
	}
	return dissectTransport(f, d, proto, packet)
}

// dissectIPv6 walks over extension headers.
func dissectIPv6(f []byte, l3 int) (proto byte, l4 int, k kind) {
	proto, l4 = f[l3+6], l3+40
	for proto != protoTCP && proto != protoUDP {
		switch {
		case proto == protoFragment:
			return 0, 0, opaque
		case proto != protoHopByHop && proto != protoDestination && proto != protoRouting:
			return 0, 0, foreign
		case len(f) < l4+8, proto == protoRouting && f[l4+3] > 0:
			return 0, 0, opaque
		}
		proto, l4 = f[l4], l4+(int(f[l4+1])+1)*8
	}
	return proto, l4, flow
}

func dissectTransport(f []byte, d dissection, proto byte, packet []byte) dissection {
	need, end := 8, 0
	if proto == protoTCP {
		need, end = 20, len(packet)
	}
	if len(packet) < need {
		return dissection{kind: opaque}
	}
	if proto == protoTCP {
		need = int(packet[12]>>4) * 4
		if need < 20 {
			return dissection{kind: opaque}
		}
	} else {
		end = int(binary.BigEndian.Uint16(packet[4:]))
	}
	if need > end || end > len(packet) {
		return dissection{kind: opaque}
	}
	d.kind, d.end = flow, d.l4+end
	ip := f[d.l3:]
	if ip[0]>>4 == 4 {
		ip = ip[12:20]
	} else {
		ip = ip[8:40]
	}
	d.key = fmt.Sprintf("%x %x %x %d", f[:d.l3], ip, packet[:4], proto)
	return d
}

// essence is f, which was part of a run, without what runs do not keep.
func essence(f []byte) []byte {
	d := dissect(f)
	f = slices.Clone(f[:d.end])
	if ip := f[d.l3:]; ip[0]>>4 == 4 && ip[6]&0x40 != 0 {
		ip[4], ip[5], ip[10], ip[11] = 0, 0, 0, 0
	}
	return f
}

package offload

import (
	"encoding/binary"
	"math/bits"

	"softether-go/pkg/inet"
)

const (
	// maxSegments bounds a run of TCP segments: writev takes 1024 slices
	// (UIO_MAXIOV), and two are left for headers.
	maxSegments = 1022

	// maxDatagrams bounds a run of UDP datagrams: the kernel takes no more
	// (UDP_MAX_SEGMENTS until Linux 6.9).
	maxDatagrams = 64

	// maxHeader is the longest header of a frame that may join a run: two tags,
	// plain IPv6, TCP with all options.
	maxHeader = ethernetLen + maxTags*tagLen + ipv6Len + 60

	// slots is the size of the flow table. A batch of a few hundred frames holds
	// a few dozen flows at most; two in one slot end each other's runs.
	slots = 256
)

// A Coalescer glues frames of one flow together. The zero value is ready and glues
// TCP only.
//
// Push takes the frames of a batch, Flush gives the result. In between the frames
// are lent. Not for several goroutines at once.
type Coalescer struct {
	// UDP says to glue UDP datagrams too, which is of use to a receiver that
	// handles a train of datagrams at once.
	UDP bool

	// VerifyAll says to verify all frames, and not only those that could join a
	// run: for a receiver that does not verify by itself.
	VerifyAll bool

	// Thin says to leave out an acknowledgement which the next of its flow in the
	// batch supersedes.
	Thin bool

	runs    []run
	joined  []link // the frames of all runs but the first of each
	barrier int    // runs below this index are not continued

	// table has for each hash of a flow 1 + the index of the run that its next
	// frame may join or supersede, or 0. A frame that may do neither takes the slot
	// over or empties it, even from another flow: what matters is that the run in a
	// slot is the latest of every flow with that hash.
	table [slots]uint32

	header  [maxHeader]byte // of the Super handed out
	payload [][]byte        // of the Super handed out
}

// A run is the frames that become one Super, or a frame that stays alone.
type run struct {
	layout
	verdict    Verdict
	push       byte   // PSH, if the last segment has it
	first      []byte // the first frame
	n          int    // frames
	bytes      int    // payload in all of them
	next       uint32 // sequence number that continues a TCP run
	head, tail int32  // the second and the last frame in joined
	thinned    int    // acknowledgements that the frame stands for beside itself
}

// size returns the payload of the first frame, which all others but the last have too.
func (r *run) size() int { return r.end - r.data }

// A link is a frame's payload in the list of its run.
type link struct {
	payload []byte
	next    int32
}

// Push takes the next frame of the batch.
func (c *Coalescer) Push(f []byte) {
	r := run{first: f, n: 1}
	k := r.parse(f)
	glue := k == flow && c.mayJoin(&r)
	thin := c.Thin && k == flow && r.isAck()
	if glue || thin || c.VerifyAll {
		r.verdict = r.verify(f, k)
		glue = glue && r.verdict == Correct
		thin = thin && r.verdict == Correct
	}
	switch {
	case k == foreign:
		c.runs = append(c.runs, r)
	case k == opaque:
		c.runs = append(c.runs, r)
		c.barrier = len(c.runs)
	case glue:
		c.glue(&r)
	case thin:
		c.thin(&r)
	default:
		c.runs = append(c.runs, r)
		c.table[r.hash()] = 0
	}
}

// glue joins the frame r to the run in its slot or begins a run with it.
func (c *Coalescer) glue(r *run) {
	slot := &c.table[r.hash()]
	if i := int(*slot) - 1; i >= c.barrier && c.runs[i].continuedBy(r) {
		if !c.join(&c.runs[i], r) {
			*slot = 0
		}
		return
	}
	r.begin()
	c.runs = append(c.runs, *r)
	*slot = uint32(len(c.runs))
}

// join appends the frame r to run g and reports whether another may follow.
func (c *Coalescer) join(g, r *run) bool {
	at := int32(len(c.joined))
	c.joined = append(c.joined, link{payload: r.first[r.data:r.end], next: -1})
	if g.n == 1 {
		g.head = at
	} else {
		c.joined[g.tail].next = at
	}
	g.tail = at
	g.n++
	g.bytes += r.size()
	g.next += uint32(r.size())
	if g.proto == protoTCP {
		g.push = r.first[r.l4+tcpFlags] & flagPSH
	}
	return g.push == 0 && r.size() == g.size()
}

// Flush hands out everything that was pushed, in the order of the first frame of
// each run, and forgets it. A Super and what it refers to is lent for one call of emit.
func (c *Coalescer) Flush(emit func(Super)) {
	for i := range c.runs {
		r := &c.runs[i]
		if r.n == 1 {
			emit(Super{Header: r.first, Thinned: r.thinned, Checksums: r.verdict})
		} else {
			emit(c.super(r))
		}
	}
	// Cleared because frames must not be kept, not even from the collector.
	clear(c.runs)
	clear(c.joined)
	clear(c.payload)
	clear(c.table[:])
	c.runs, c.joined, c.payload, c.barrier = c.runs[:0], c.joined[:0], c.payload[:0], 0
}

// super makes a super-frame of a run of two or more.
func (c *Coalescer) super(r *run) Super {
	h := c.header[:copy(c.header[:], r.first[:r.data])]
	ip, l4 := h[r.l3:], h[r.l4:]
	if r.v6 {
		binary.BigEndian.PutUint16(ip[4:], uint16(len(l4)+r.bytes))
	} else {
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+r.bytes))
		binary.BigEndian.PutUint16(ip[10:], 0)
		putChecksum(ip[10:], inet.Sum(h[r.l3:r.l4]), false)
	}
	m := Meta{NeedsCsum: true, Size: r.size(), HdrLen: r.data, CsumStart: r.l4, CsumOffset: r.csum()}
	switch {
	case r.proto == protoUDP:
		m.GSO = UDP
		binary.BigEndian.PutUint16(l4[udpLength:], uint16(udpLen+r.bytes))
	case r.v6:
		m.GSO = TCPv6
	default:
		m.GSO = TCPv4
	}
	if r.proto == protoTCP {
		m.ECN = l4[tcpFlags]&flagCWR != 0
		l4[tcpFlags] |= r.push
	}
	binary.BigEndian.PutUint16(l4[m.CsumOffset:], inet.Fold(r.pseudo(h, len(l4)+r.bytes)))

	c.payload = append(c.payload[:0], r.first[r.data:r.end])
	for i := r.head; i >= 0; i = c.joined[i].next {
		c.payload = append(c.payload, c.joined[i].payload)
	}
	return Super{Header: h, Payload: c.payload, Meta: m, Checksums: Correct}
}

// hash is that of the addresses and ports, the same for all frames of a flow.
func (r *run) hash() uint8 {
	const k0, k1 = 0x9e3779b97f4a7c15, 0xd6e8feb86659fd93 // odd, half of the bits set
	f := r.first
	ports := uint64(binary.LittleEndian.Uint32(f[r.l4:]))
	a := r.addresses(f)
	if r.v6 {
		hi, lo := bits.Mul64(binary.LittleEndian.Uint64(a)^k0, binary.LittleEndian.Uint64(a[8:])^k1)
		ports ^= hi ^ lo
		hi, lo = bits.Mul64(binary.LittleEndian.Uint64(a[16:])^k0, binary.LittleEndian.Uint64(a[24:])^k1)
		ports ^= hi ^ lo<<32
	}
	hi, lo := bits.Mul64(binary.LittleEndian.Uint64(a)^k0, ports^k1)
	return uint8((hi ^ lo) >> 24)
}

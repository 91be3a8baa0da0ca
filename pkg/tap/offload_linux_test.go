package tap

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"softether-go/pkg/frame"
	"softether-go/pkg/offload"
)

// bridged opens three devices as the ports of one bridge in a namespace of their own:
// the host's is vpn0, and all that reaches the other two was cut by the kernel if it
// was ever together.
func bridged(t testing.TB, cfg Config) (d, port *Device) {
	t.Helper()
	enterNamespace(t)
	cfg.Name = "vpn0"
	d, port = openTap(t, cfg), openTap(t, Config{Name: "port", Plain: true})
	ip(t, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
	for _, name := range []string{"vpn0", "port"} {
		ip(t, "link", "set", name, "master", "br0", "up")
	}
	for _, table := range []string{"iptables", "ip6tables"} { // else the host's filter sees what crosses
		err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-"+table, []byte("0"), 0o644)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	setLink(t, "br0", true)
	return d, port
}

var (
	vlan = []byte{0x81, 0, 0, 42}
	qinq = []byte{0x88, 0xa8, 0, 7, 0x81, 0, 0, 42}
)

// The kernel itself is the reference: it cuts the same super-frames for a device that
// takes none.
func TestSuperFramesLeaveAsTheKernelWouldCutThem(t *testing.T) {
	enterNamespace(t)
	d, plain := openTap(t, Config{Name: "vpn0"}), openTap(t, Config{Name: "plain", Plain: true})
	runs := map[*Device]*run{}
	hosts := map[*Device]*wire{}
	for _, d := range []*Device{d, plain} {
		setLink(t, d.Name(), true)
		runs[d], hosts[d] = start(t, d), newWire(t, d.Index())
		describeFrames(t, hosts[d])
	}
	seen := 0
	for _, row := range []struct {
		name   string
		p      packet
		size   int // of a segment; zero sends one frame
		frames int
	}{
		{"TCP over IPv4", packet{payload: text(45 * mss), options: timestamps, id: 65530, seq: 1<<32 - 5000}, mss, 45},
		{"TCP over IPv6", packet{payload: text(40 * 1428), options: timestamps, v6: true}, 1428, 40},
		{"short last segment", packet{payload: text(2*mss + 1), options: timestamps}, mss, 3},
		{"two segments", packet{payload: text(200)}, 100, 2},
		{"odd segments", packet{payload: text(5 * 99)}, 99, 5},
		{"64 KiB", packet{payload: text(65400)}, 1460, 45},
		{"least MSS", packet{payload: text(400 * 36), options: timestamps}, 36, 400},
		{"PSH and FIN", packet{payload: text(3000), flags: ack | psh | fin}, 1000, 3},
		{"CWR", packet{payload: text(3000), flags: ack | cwr}, 1000, 3},
		{"ECE and CE", packet{payload: text(3000), flags: ack | ece, tos: 3}, 1000, 3},
		{"VLAN tag", packet{payload: text(45 * 1400), tags: vlan}, 1400, 45},
		{"VLAN tag, IPv6", packet{payload: text(40 * 1400), tags: vlan, v6: true}, 1400, 40},
		{"two VLAN tags", packet{payload: text(40 * 1400), tags: qinq}, 1400, 40},
		{"UDP over IPv4", packet{udp: true, payload: text(50 * 1200)}, 1200, 50},
		{"UDP over IPv6", packet{udp: true, v6: true, payload: text(50 * 1200)}, 1200, 50},
		{"UDP with a short last datagram", packet{udp: true, payload: text(10*1200 + 3)}, 1200, 11},
		{"UDP with a VLAN tag", packet{udp: true, tags: vlan, payload: text(50 * 1200)}, 1200, 50},
		{"UDP of 1 byte", packet{udp: true, payload: text(60)}, 1, 60},
		{"longest frames", packet{payload: text(10 * 1546)}, 1546, 10},
		{"frames that are too long but the last", packet{payload: text(7*8960 + 77)}, 8960, 1},

		{"segment without its checksum", packet{payload: text(mss)}, 0, 1},
		{"segment over IPv6 without its checksum", packet{v6: true, payload: text(1428)}, 0, 1},
		{"segment with a VLAN tag without its checksum", packet{payload: text(1400), tags: vlan}, 0, 1},
		{"datagram without its checksum", packet{udp: true, payload: text(99)}, 0, 1},
		{"datagram whose checksum is zero", packet{udp: true, v6: true, payload: zeroSum(t)}, 0, 1},
		{"acknowledgement", packet{}, 0, 1},
	} {
		t.Run(row.name, func(t *testing.T) {
			super := row.p.super(row.size)
			before := d.Stats()
			seen += row.frames
			var got [2][][]byte
			for i, d := range []*Device{d, plain} {
				hosts[d].t = t
				hosts[d].send(super)
				runs[d].t = t
				got[i] = runs[d].frames(seen)[seen-row.frames:]
			}
			if len(got[0]) != row.frames || len(got[1]) != row.frames {
				t.Fatalf("got %d frames, the kernel cut %d, want %d", len(got[0]), len(got[1]), row.frames)
			}
			for i := range got[1] {
				if !bytes.Equal(got[0][i], got[1][i]) {
					t.Fatalf("frame %d differs:\ngot    %x\nkernel %x", i, got[0][i], got[1][i])
				}
				if v := offload.Verify(got[0][i]); v != offload.Correct {
					t.Errorf("frame %d: checksums are %v", i, v)
				}
			}
			supers := d.Stats().OutSupers - before.OutSupers
			if (row.size > 0) != (supers > 0) && (d.Offload().OutUDP || !row.p.udp) {
				t.Errorf("got %d super-frames", supers)
			}
			if s := plain.Stats(); s.OutSupers != 0 {
				t.Errorf("got %d super-frames on the plain device", s.OutSupers)
			}
		})
	}
	if s := d.Stats(); s.OutMalformed != 7 || s.OutUncut != 0 || s.OutSupers > 0 && s.OutSegments < s.OutSupers {
		t.Errorf("got %+v, want the 7 frames that are too long to be dropped, and no other", s)
	}
}

// zeroSum returns a payload whose UDP checksum over IPv6, from and to port 5000, comes
// out as zero, which has to be written 0xffff.
func zeroSum(t testing.TB) []byte {
	p := packet{udp: true, v6: true, payload: make([]byte, 4)}
	f := p.frame()
	copy(p.payload, f[len(f)-6:]) // the checksum itself
	p.payload[2], p.payload[3] = 0, 0
	if f = p.frame(); f[len(f)-6] != 0xff || f[len(f)-5] != 0xff {
		t.Fatalf("the checksum is %x", f[len(f)-6:len(f)-4])
	}
	return p.payload
}

// What the tunnel brings leaves the other port of a bridge as it came, whatever the
// device and the kernel made of it in between.
func TestFramesCrossABridgeAsTheyCame(t *testing.T) {
	tcp := packet{options: timestamps, seq: 7}
	udp := packet{udp: true}
	change := func(frames [][]byte, at int, p packet) [][]byte {
		frames[at] = p.frame()
		return frames
	}
	third := tcp.with(func(p *packet) { p.seq, p.id, p.payload = 7+2*mss, 2, text(mss) })
	reordered := train(tcp, 10, mss)
	reordered[3], reordered[4] = reordered[4], reordered[3]
	var two [][]byte
	for i, f := range train(tcp, 20, mss) {
		two = append(two, f, train(tcp.with(func(p *packet) { p.port = 9 }), 20, 1000)[i])
	}
	for _, row := range []struct {
		name   string
		frames [][]byte
		supers int
	}{
		{"TCP", train(tcp, 44, mss), 1},
		{"TCP over IPv6", train(tcp.with(func(p *packet) { p.v6 = true }), 44, 1428), 1},
		{"more than 64 KiB", train(tcp, 100, mss), 3},
		{"small segments", train(tcp, 300, 10), 1},
		{"PSH", change(train(tcp, 10, mss), 2, third.with(func(p *packet) { p.flags = ack | psh })), 2},
		{"FIN at the end", append(train(tcp, 2, mss), third.with(func(p *packet) { p.flags = ack | fin }).frame()), 1},
		{"wrong checksum", change(train(tcp, 10, mss), 2, third.with(func(p *packet) { p.spoil = true })), 2},
		{"other ToS", change(train(tcp, 10, mss), 2, third.with(func(p *packet) { p.tos = 4 })), 2},
		{"CE", change(train(tcp, 10, mss), 2, third.with(func(p *packet) { p.tos = 3 })), 2},
		{"CWR at the front", append([][]byte{tcp.with(func(p *packet) { p.flags, p.payload = ack|cwr, text(mss) }).frame()},
			train(tcp.with(func(p *packet) { p.seq, p.id = 7+mss, 1 }), 5, mss)...), 1},
		{"reordered", reordered, 2},
		{"padded last segment", append(train(tcp.with(func(p *packet) { p.options = nil }), 3, 100),
			packet{seq: 307, id: 3, payload: text(2), pad: 4}.frame()), 1},
		{"acknowledgements", train(tcp, 10, 0), 0},
		{"fragments", train(tcp.with(func(p *packet) { p.more = true }), 3, 800), 0},
		{"one segment", train(tcp, 1, mss), 0},
		{"VLAN tag", train(tcp.with(func(p *packet) { p.tags = vlan }), 40, 1400), 1},
		{"two VLAN tags", train(tcp.with(func(p *packet) { p.tags = qinq }), 40, 1400), 1},
		{"VLAN tag, IPv6", train(tcp.with(func(p *packet) { p.tags, p.v6 = vlan, true }), 40, 1400), 1},
		{"two flows", two, 2},
		{"UDP", train(udp, 50, 1200), 1},
		{"UDP over IPv6", train(udp.with(func(p *packet) { p.v6 = true }), 50, 1200), 1},
		{"UDP with a short last datagram", append(train(udp, 3, 100), udp.with(func(p *packet) { p.id, p.payload = 3, text(9) }).frame()), 1},
		{"UDP with a VLAN tag", train(udp.with(func(p *packet) { p.tags = vlan }), 50, 1200), 1},
		{"not IP", full(10), 0},
	} {
		for _, plain := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, plain %v", row.name, plain), func(t *testing.T) {
				d, port := bridged(t, Config{Plain: plain})
				far := start(t, port)
				sent := slices.Clone(row.frames)
				if err := d.WriteFrames(sent); err != nil {
					t.Fatal(err)
				}
				got := far.frames(len(sent))
				if len(got) != len(sent) {
					t.Fatalf("got %d frames, want %d", len(got), len(sent))
				}
				sortByFlow(got)
				sortByFlow(sent)
				for i := range sent {
					want := sent[i]
					if strings.HasPrefix(row.name, "padded") {
						want = want[:len(got[i])] // bridges trim it, and so do we
					}
					if !bytes.Equal(got[i], want) {
						t.Fatalf("frame %d differs:\ngot  %x\nwant %x", i, got[i], want)
					}
				}
				s, supers := d.Stats(), row.supers
				if plain || strings.HasPrefix(row.name, "UDP") && !d.Offload().InUDP {
					supers = 0
				}
				if s.InFrames != uint64(len(sent)) || s.InSupers != uint64(supers) {
					t.Errorf("got %d frames, %d super-frames, want %d and %d", s.InFrames, s.InSupers, len(sent), supers)
				}
				if supers > 0 && (s.InSegments < 2*s.InSupers || s.InSegments > s.InFrames) {
					t.Errorf("got %d segments in %d super-frames", s.InSegments, s.InSupers)
				}
			})
		}
	}
}

// sortByFlow brings frames of the same source port together; those are in order anyway.
func sortByFlow(frames [][]byte) {
	slices.SortStableFunc(frames, func(a, b []byte) int { return bytes.Compare(a[34:36], b[34:36]) })
}

func TestHostRejectsWrongChecksumsAmongGoodOnes(t *testing.T) {
	for _, plain := range []bool{false, true} {
		t.Run(fmt.Sprintf("plain %v", plain), func(t *testing.T) {
			s := newSite(t, 1, Config{Plain: plain})
			conn := listen(t, s)
			batch := train(packet{udp: true, to: s.d.MAC(), from: "10.77.0.9", host: s.four}, 9, 100)
			spoiled := packet{udp: true, to: s.d.MAC(), from: "10.77.0.9", host: s.four, payload: []byte("spoiled"), spoil: true}
			batch[4] = spoiled.frame()
			batch = append(batch, spoiled.frame())
			if err := s.d.WriteFrames(batch); err != nil {
				t.Fatal(err)
			}
			for range 8 {
				if got := conn(); !bytes.Equal(got, text(100)) {
					t.Errorf("the socket received %q", got)
				}
			}
			if got, want := udpErrors(t), "2"; got != want {
				t.Errorf("wrong checksums that the host counted: got %s, want %s", got, want)
			}
		})
	}
}

// listen returns a function that receives a datagram at the host's port 5000.
func listen(t *testing.T, s *site) func() []byte {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: 5000}); err != nil {
		t.Fatal(err)
	}
	limit := unix.NsecToTimeval(patience.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		t.Fatal(err)
	}
	return func() []byte {
		b := make([]byte, 2000)
		n, err := unix.Read(fd, b)
		if err != nil {
			t.Fatal(err)
		}
		return b[:n]
	}
}

// udpErrors returns the InCsumErrors of UDP in the thread's namespace.
func udpErrors(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/thread-self/net/snmp")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, line := range strings.Split(string(b), "\n") {
		if f := strings.Fields(line); len(f) > 0 && f[0] == "Udp:" {
			if names == nil {
				names = f
				continue
			}
			return f[slices.Index(names, "InCsumErrors")]
		}
	}
	t.Fatalf("no InCsumErrors in %s", b)
	return ""
}

func TestLinkDownDropsEveryFrameOfASuperFrame(t *testing.T) {
	d := openUp(t)
	setLink(t, "vpn0", false)
	if err := d.WriteFrames(train(packet{}, 40, 1000)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Stats{InLinkDown: 40}, d.Stats()); diff != "" {
		t.Errorf("stats (-want +got):\n%s", diff)
	}
}

func TestSuperFramesAreReadInBatches(t *testing.T) {
	d := openUp(t)
	host := newWire(t, d.Index())
	describeFrames(t, host)
	for range 5 {
		host.send(packet{payload: text(40 * 1000)}.super(1000), packet{}.super(0))
	}
	r := start(t, d)
	r.frames(5 * 41)
	for _, want := range []int{40 + 1 + 40 + 1 + 40, 1 + 40 + 1 + 40 + 1} { // past 64 × 1514 bytes, a batch takes no more
		if got := <-r.sizes; got != want {
			t.Errorf("batch: got %d frames, want %d", got, want)
		}
	}
	got, want := d.Stats(), Stats{OutFrames: 205, OutBytes: 5 * (40*1054 + 54), OutBatches: 2, OutSupers: 5, OutSegments: 200}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("stats (-want +got):\n%s", diff)
	}
}

// all is what a kernel of today does.
var all = Offload{OutTCP: true, OutUDP: true, InTCP: true, InUDP: true}

func TestWhatTheKernelRefusesIsDoneWithout(t *testing.T) {
	for _, row := range []struct {
		name   string
		refuse []refusal
		want   Offload
	}{
		{"nothing", nil, all},
		{"virtio headers", []refusal{{unix.SYS_IOCTL, unix.TUNSETVNETHDRSZ, 0}}, Offload{}},
		{"cutting of UDP", []refusal{{unix.SYS_IOCTL, unix.TUNSETOFFLOAD, unix.TUN_F_USO4}}, Offload{OutTCP: true, InTCP: true, InUDP: true}},
		{"cutting", []refusal{{unix.SYS_IOCTL, unix.TUNSETOFFLOAD, 0}}, Offload{InTCP: true, InUDP: true}},
		{"super-frames", []refusal{{unix.SYS_WRITEV, 0, 0}}, Offload{OutTCP: true, OutUDP: true}},
	} {
		t.Run(row.name, func(t *testing.T) {
			enterNamespace(t)
			before := interfaces(t)
			d := openRefused(t, row.refuse)
			if diff := cmp.Diff(row.want, d.Offload()); diff != "" {
				t.Errorf("offload (-want +got):\n%s", diff)
			}
			if got, want := interfaces(t), before+" vpn0"; got != want {
				t.Errorf("interfaces: got %s, want %s", got, want)
			}
			setLink(t, "vpn0", true)
			r, host := start(t, d), newWire(t, d.Index())
			for i, f := range train(packet{}, 3, 100) {
				host.send(f)
				same(t, r.frames(i + 1)[i], f)
			}
			sent := train(packet{}, 10, 100)
			if err := d.WriteFrames(sent); err != nil {
				t.Fatal(err)
			}
			if s := d.Stats(); s.InFrames != 10 || (s.InSupers == 1) != row.want.InTCP {
				t.Errorf("got %d frames, %d super-frames in, with offload %+v", s.InFrames, s.InSupers, d.Offload())
			}
			if !row.want.InTCP {
				for _, f := range sent {
					same(t, host.receive(), f)
				}
			}
		})
	}
}

// A refusal lets a system call fail with EINVAL. If second is not zero, only with that
// as its second argument; if bits are not zero, only with any of them in the third.
type refusal struct{ call, second, bits uint32 }

// openRefused opens vpn0 on a thread that may not do certain things. The thread ends
// then, as there is no way back.
func openRefused(t *testing.T, refuse []refusal) *Device {
	t.Helper()
	namespace, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(namespace)
	var d *Device
	t.Run("open", func(t *testing.T) {
		enterNamespace(t)
		if err := unix.Setns(namespace, unix.CLONE_NEWNET); err != nil {
			t.Fatal(err)
		}
		for _, r := range refuse {
			r.install(t)
		}
		if d, err = Open(Config{Name: "vpn0"}); err != nil {
			t.Fatal(err)
		}
	})
	if d == nil {
		t.FailNow()
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// install makes the thread obey, by a filter of system calls (seccomp).
func (r refusal) install(t *testing.T) {
	t.Helper()
	// Offsets in struct seccomp_data; the lower half of an argument comes first.
	const number, second, third = 0, 24, 32
	code := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: number}}
	unless := func(test uint16, k uint32) { // jumps to the last instruction; set below
		code = append(code, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_K | test, K: k})
	}
	unless(unix.BPF_JEQ, r.call)
	if r.second != 0 {
		code = append(code, unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: second})
		unless(unix.BPF_JEQ, r.second)
	}
	if r.bits != 0 {
		code = append(code, unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: third})
		unless(unix.BPF_JSET, r.bits)
	}
	code = append(code,
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EINVAL)},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW})
	for i := range code {
		if code[i].Code&7 == unix.BPF_JMP {
			code[i].Jf = uint8(len(code) - 2 - i)
		}
	}
	prog := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&prog)), 0, 0); err != nil {
		t.Fatalf("filter system calls: %v", err)
	}
}

func TestPlainDeviceExchangesNoSuperFrames(t *testing.T) {
	enterNamespace(t)
	d := openTap(t, Config{Name: "vpn0", Plain: true})
	if !d.plain() {
		t.Errorf("offload: got %+v, want none", d.Offload())
	}
}

// FuzzTake gives the reader what a kernel might, and what none would.
func FuzzTake(f *testing.F) {
	for _, p := range []packet{{payload: text(300)}, {v6: true, payload: text(300)}, {udp: true, payload: text(300)},
		{tags: vlan, payload: text(300)}, {payload: text(9000), options: timestamps}} {
		f.Add(p.super(100))
		f.Add(p.super(1))
		f.Add(p.super(0))
		f.Add(p.super(0xffff))
	}
	f.Add(make([]byte, offload.VirtioLen-1))
	f.Add(make([]byte, offload.VirtioLen+frame.HeaderLen))
	f.Add(make([]byte, readLen))
	d := newDevice()
	d.headers = true
	f.Fuzz(func(t *testing.T, b []byte) {
		b = b[:min(len(b), readLen)]
		before := d.Stats()
		d.arena, d.batch = d.arena[:0], d.batch[:0]
		d.take(slices.Clone(b))
		for _, f := range d.batch {
			if len(f) < frame.HeaderLen || len(f) > frame.MaxLen {
				t.Errorf("a frame of %d bytes", len(f))
			}
		}
		after := d.Stats()
		dropped := after.OutMalformed - before.OutMalformed + after.OutUncut - before.OutUncut
		if len(d.batch) == 0 && dropped == 0 {
			t.Error("nothing came of it, and nothing was counted")
		}
		if cap(d.arena) > 1<<20 {
			t.Errorf("the arena has grown to %d bytes", cap(d.arena))
		}
	})
}

// Who passes frames on, as a bridge does, hears of all acknowledgements.
func TestSupersededAcknowledgementsAreLeftOutIfAskedFor(t *testing.T) {
	enterNamespace(t)
	for name, want := range map[string]Stats{
		"end":    {InFrames: 1, InThinned: 2},
		"bridge": {InFrames: 3},
	} {
		d := openTap(t, Config{Name: name, ThinAcks: name == "end"})
		setLink(t, name, true)
		var acks [][]byte
		for i := range uint32(3) {
			acks = append(acks, packet{}.with(func(p *packet) { p.ack = 100 * i }).frame())
		}
		if err := d.WriteFrames(acks); err != nil {
			t.Fatal(err)
		}
		if s := d.Stats(); s.InFrames != want.InFrames || s.InThinned != want.InThinned {
			t.Errorf("%s: %d frames, %d left out, want %d and %d", name, s.InFrames, s.InThinned, want.InFrames, want.InThinned)
		}
	}
}

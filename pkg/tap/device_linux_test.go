package tap

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"softether-go/pkg/frame"
	"softether-go/pkg/frame/frametest"
)

func TestHostsFramesGoOut(t *testing.T) {
	d := openUp(t)
	host, r := newWire(t, d.Index()), start(t, d)
	tagged := numbered(2, 1518)
	binary.BigEndian.PutUint16(tagged[12:], frame.TypeVLAN)
	binary.BigEndian.PutUint16(tagged[14:], 42)
	sent := [][]byte{numbered(1, 60), tagged, numbered(3, 1514), numbered(4, 14)}
	host.send(sent...)
	for i, got := range r.frames(len(sent)) {
		same(t, got, sent[i])
	}
}

func TestTunnelsFramesReachTheHost(t *testing.T) {
	d := openUp(t)
	host := newWire(t, d.Index())
	sent := [][]byte{numbered(1, 60), numbered(2, 1514), numbered(3, frame.MaxLen), numbered(4, 14)}
	if err := d.WriteFrames(sent); err != nil {
		t.Fatal(err)
	}
	for _, want := range sent {
		same(t, host.receive(), want)
	}
}

func TestTunnelsTaggedFrameReachesTheHost(t *testing.T) {
	d := openUp(t)
	host := newWire(t, d.Index())
	tagged := numbered(1, 1518)
	binary.BigEndian.PutUint16(tagged[12:], frame.TypeVLAN)
	binary.BigEndian.PutUint16(tagged[14:], 42)
	if err := d.WriteFrames([][]byte{tagged}); err != nil {
		t.Fatal(err)
	}
	// The kernel takes the tag out of the frame and tells it beside.
	same(t, host.receive(), append(tagged[:12:12], tagged[16:]...))
}

func TestUDPCrossesBothWays(t *testing.T) {
	d := openUp(t)
	setAddress(t, "vpn0", "10.77.0.1")
	conn, err := net.ListenPacket("udp4", "10.77.0.1:5000")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r := start(t, d)

	out := datagram(everybody, "10.77.0.9", "10.77.0.1", "in from the tunnel")
	copy(out, d.MAC())
	if err := d.WriteFrames([][]byte{out}); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	conn.SetReadDeadline(time.Now().Add(patience))
	n, from, err := conn.ReadFrom(b)
	if err != nil || string(b[:n]) != "in from the tunnel" || from.String() != "10.77.0.9:5000" {
		t.Errorf("the host received %q from %v, %v", b[:n], from, err)
	}

	if _, err := conn.WriteTo([]byte("out to the tunnel"), &net.UDPAddr{IP: net.IPv4(10, 77, 0, 255), Port: 5000}); err != nil {
		t.Fatal(err)
	}
	for seen := 1; ; seen++ { // an ARP request or the like may come first
		got := r.frames(seen)[seen-1]
		if bytes.HasSuffix(got, []byte("out to the tunnel")) {
			same(t, got[:frame.HeaderLen], frametest.Frame(everybody, d.MAC(), frame.TypeIPv4, nil))
			return
		}
	}
}

// datagram returns an IPv4 frame with a UDP datagram from and to port 5000.
func datagram(dst net.HardwareAddr, from, to, text string) []byte {
	p := make([]byte, 28, 28+len(text))
	p[0], p[8], p[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(p[2:], uint16(28+len(text)))
	copy(p[12:], net.ParseIP(from).To4())
	copy(p[16:], net.ParseIP(to).To4())
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	binary.BigEndian.PutUint16(p[10:], ^uint16(sum%0xffff))
	binary.BigEndian.PutUint16(p[20:], 5000)
	binary.BigEndian.PutUint16(p[22:], 5000)
	binary.BigEndian.PutUint16(p[24:], uint16(8+len(text)))
	return frametest.Frame(dst, somebody, frame.TypeIPv4, append(p, text...)) // no UDP checksum
}

func TestWhatQueuedUpIsReadInBatches(t *testing.T) {
	d := openUp(t)
	const n = 2*batchFrames + 10
	host := newWire(t, d.Index())
	for i := range n {
		host.send(numbered(i, 60+i))
	}
	r := start(t, d)
	for i, got := range r.frames(n) {
		same(t, got, numbered(i, 60+i))
	}
	for _, want := range []int{batchFrames, batchFrames, 10} {
		if got := <-r.sizes; got != want {
			t.Errorf("batch: got %d frames, want %d", got, want)
		}
	}
	got, want := d.Stats(), Stats{OutFrames: n, OutBatches: 3, OutBytes: n*60 + n*(n-1)/2}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("stats (-want +got):\n%s", diff)
	}
}

func TestLinkDownWhileWritingDropsAndGoesOn(t *testing.T) {
	d := openUp(t)
	r := start(t, d)
	const n = 10
	batch := make([][]byte, n)
	for i := range batch {
		batch[i] = numbered(i, 100)
	}
	write := func(want Stats) {
		t.Helper()
		if err := d.WriteFrames(batch); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, d.Stats()); diff != "" {
			t.Errorf("stats (-want +got):\n%s", diff)
		}
	}
	write(Stats{InFrames: n, InBytes: n * 100, InBatches: 1})
	setLink(t, "vpn0", false)
	write(Stats{InFrames: n, InBytes: n * 100, InBatches: 1, InLinkDown: n})
	setLink(t, "vpn0", true)
	write(Stats{InFrames: 2 * n, InBytes: 2 * n * 100, InBatches: 2, InLinkDown: n})
	newWire(t, d.Index()).send(numbered(1, 60))
	same(t, r.frames(1)[0], numbered(1, 60))
}

func TestFramesOfImpossibleLengthAreDroppedAndCounted(t *testing.T) {
	d := openUp(t)
	host := newWire(t, d.Index())
	in := [][]byte{nil, make([]byte, frame.HeaderLen-1), make([]byte, frame.MaxLen+1), numbered(1, 60)}
	if err := d.WriteFrames(in); err != nil {
		t.Fatal(err)
	}
	same(t, host.receive(), numbered(1, 60))

	ifreq(t, unix.SIOCSIFMTU, "vpn0", func(ifr *unix.Ifreq) { ifr.SetUint32(9000) })
	host.send(numbered(1, frame.MaxLen+1), numbered(2, 9000), numbered(3, frame.MaxLen+64), numbered(4, frame.MaxLen))
	same(t, start(t, d).frames(1)[0], numbered(4, frame.MaxLen))

	want := Stats{InFrames: 1, InBytes: 60, InBatches: 1, InMalformed: 3,
		OutFrames: 1, OutBytes: frame.MaxLen, OutBatches: 1, OutMalformed: 3}
	if diff := cmp.Diff(want, d.Stats()); diff != "" {
		t.Errorf("stats (-want +got):\n%s", diff)
	}
}

func TestRenamedInterfaceGoesOn(t *testing.T) {
	enterNamespace(t)
	d := openTap(t, Config{Name: "vpn0"})
	ip(t, "link", "set", "vpn0", "name", "office", "address", "5e:00:53:07:07:07")
	setLink(t, "office", true)
	newWire(t, d.Index()).send(numbered(1, 60))
	start(t, d).frames(1)
	if got, want := d.MAC().String(), "5e:00:53:07:07:07"; got != want {
		t.Errorf("MAC: got %s, want the present one, %s", got, want)
	}
}

func TestTCPCrossesTwoJoinedDevices(t *testing.T) {
	here := openUp(t)
	setAddress(t, "vpn0", "10.77.0.1")
	there, l := farHost(t, "10.77.0.2")

	ctx, cancel := context.WithCancel(t.Context())
	joined := make(chan error)
	go func() { joined <- frame.Join(ctx, here, there) }()
	defer func() {
		cancel()
		if err := <-joined; !errors.Is(err, context.Canceled) {
			t.Errorf("Join: got %v, want the context's error", err)
		}
	}()

	sent := bytes.Repeat([]byte("The quick brown fox. "), 8<<20/21)
	go func() {
		c, err := l.Accept()
		if err != nil {
			t.Errorf("accept: %v", err)
			return
		}
		defer c.Close()
		io.Copy(c, c)
	}()
	c, err := net.DialTimeout("tcp4", "10.77.0.2:5000", patience)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go func() {
		c.Write(sent)
		c.(*net.TCPConn).CloseWrite()
	}()
	c.SetReadDeadline(time.Now().Add(3 * patience))
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("got %d bytes back, %v, want %d equal ones", len(got), err, len(sent))
	}
}

// farHost opens a device with the address in another namespace, and a listener there.
func farHost(t *testing.T, address string) (*Device, net.Listener) {
	t.Helper()
	type host struct {
		d *Device
		l net.Listener
	}
	made := make(chan host, 1)
	t.Run("far host", func(far *testing.T) { // on a thread of its own
		enterNamespace(far)
		d, err := Open(Config{Name: "vpn0"})
		if err != nil {
			far.Fatal(err)
		}
		setLink(far, "vpn0", true)
		setAddress(far, "vpn0", address)
		l, err := net.Listen("tcp4", address+":5000")
		if err != nil {
			d.Close()
			far.Fatal(err)
		}
		made <- host{d, l}
	})
	if t.Failed() {
		t.FailNow()
	}
	h := <-made
	t.Cleanup(func() { h.l.Close(); h.d.Close() })
	return h.d, h.l
}

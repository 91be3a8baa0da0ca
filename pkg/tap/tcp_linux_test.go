package tap

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"softether-go/pkg/frame"
)

// A site is a host with a device, in a network namespace of its own.
type site struct {
	t         testing.TB
	namespace int
	d         *Device
	four, six string // addresses
}

// newSite makes a host with a number, which is the end of its addresses, and enters it.
func newSite(t testing.TB, number int, cfg Config) *site {
	t.Helper()
	enterNamespace(t)
	s := &site{t: t, four: fmt.Sprintf("10.77.0.%d", number), six: fmt.Sprintf("fd77::%d", number)}
	var err error
	if s.namespace, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(s.namespace) })
	cfg.Name = "vpn0"
	s.d = openTap(t, cfg)
	setLink(t, "vpn0", true)
	setAddress(t, "vpn0", s.four)
	if cfg.MTU == 0 || cfg.MTU >= 1280 { // else the interface has no IPv6
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/vpn0/disable_ipv6", []byte("0"), 0o644); err != nil {
			t.Fatal(err)
		}
		ip(t, "address", "add", s.six+"/64", "dev", "vpn0", "nodad")
	}
	return s
}

// enter puts the test's thread into the host's namespace.
func (s *site) enter() {
	s.t.Helper()
	if err := unix.Setns(s.namespace, unix.CLONE_NEWNET); err != nil {
		s.t.Fatal(err)
	}
}

// address returns the host's address in the network, which is tcp4, udp6 or the like.
func (s *site) address(network string) string {
	if network[3] == '6' {
		return net.JoinHostPort(s.six, "5000")
	}
	return net.JoinHostPort(s.four, "5000")
}

// join makes two hosts, connects their devices and leaves the thread in the first.
func join(t testing.TB, here, there Config) (a, b *site) {
	t.Helper()
	b = newSite(t, 2, there)
	a = newSite(t, 1, here)
	ctx, cancel := context.WithCancel(context.Background())
	joined := make(chan error)
	go func() { joined <- frame.Join(ctx, a.d, b.d) }()
	t.Cleanup(func() {
		cancel()
		if err := <-joined; !errors.Is(err, context.Canceled) {
			t.Errorf("Join: got %v, want the context's error", err)
		}
	})
	return a, b
}

// connect opens a TCP connection from a to b and returns both ends.
func connect(t testing.TB, network string, a, b *site) (from, to *net.TCPConn) {
	t.Helper()
	b.enter()
	l, err := net.Listen(network, b.address(network))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l.(*net.TCPListener).SetDeadline(time.Now().Add(patience))
	a.enter()
	c, err := net.DialTimeout(network, b.address(network), patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	d, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return c.(*net.TCPConn), d.(*net.TCPConn)
}

// A transfer is what came out at one end of a connection.
type transfer struct {
	sum [sha256.Size]byte
	n   int64
	err error
}

// exchange sends n bytes each way and returns what went in, which was the same at
// both ends, and what came out.
func exchange(t testing.TB, n int, ends ...*net.TCPConn) (in transfer, out []transfer) {
	t.Helper()
	sent := text(n)
	results := make(chan transfer)
	for _, c := range ends {
		c.SetDeadline(time.Now().Add(3 * patience))
		go func() {
			if _, err := c.Write(sent); err != nil {
				t.Errorf("write: %v", err)
			}
			c.CloseWrite()
		}()
		go func() {
			var r transfer
			h := sha256.New()
			r.n, r.err = io.Copy(h, c)
			h.Sum(r.sum[:0])
			results <- r
		}()
	}
	for range ends {
		out = append(out, <-results)
	}
	return transfer{sum: sha256.Sum256(sent), n: int64(n)}, out
}

func TestTCPCarriesEveryByte(t *testing.T) {
	plain := func(c Config) Config { c.Plain = true; return c }
	for _, row := range []struct {
		name        string
		network     string
		here, there Config
	}{
		{"IPv4", "tcp4", Config{}, Config{}},
		{"IPv6", "tcp6", Config{}, Config{}},
		{"IPv4, MTU 1400", "tcp4", Config{MTU: 1400}, Config{MTU: 1400}},
		{"IPv6, MTU 1280", "tcp6", Config{MTU: 1280}, Config{MTU: 1280}},
		{"IPv4, largest MTU", "tcp4", Config{MTU: frame.MaxMTU}, Config{MTU: frame.MaxMTU}},
		{"IPv4, different MTUs", "tcp4", Config{MTU: 1400}, Config{MTU: 1500}},
		{"IPv4, MTU 576", "tcp4", Config{MTU: 576}, Config{MTU: 576}},
		{"IPv4, plain here", "tcp4", plain(Config{}), Config{}},
		{"IPv6, plain there", "tcp6", Config{}, plain(Config{})},
		{"IPv4, plain", "tcp4", plain(Config{}), plain(Config{})},
		{"IPv6, plain", "tcp6", plain(Config{}), plain(Config{})},
	} {
		t.Run(row.name, func(t *testing.T) {
			a, b := join(t, row.here, row.there)
			from, to := connect(t, row.network, a, b)
			want, got := exchange(t, 4<<20, from, to)
			for _, r := range got {
				if r != want {
					t.Errorf("got %d bytes, %v, sum %x, want %d, sum %x", r.n, r.err, r.sum[:4], want.n, want.sum[:4])
				}
			}
			for _, s := range []*site{a, b} {
				stats := s.d.Stats()
				t.Logf("%+v", stats)
				if used := stats.OutSupers > 0 && stats.InSupers > 0; used == s.d.plain() {
					t.Errorf("%d super-frames out, %d in, with offload %+v", stats.OutSupers, stats.InSupers, s.d.Offload())
				}
				if stats.OutMalformed+stats.OutUncut+stats.InMalformed+stats.InRefused > 0 {
					t.Errorf("frames were dropped: %+v", stats)
				}
			}
		})
	}
}

// plain reports whether the device exchanges no super-frames at all.
func (d *Device) plain() bool { return d.Offload() == Offload{} }

func TestTrainsOfDatagramsArriveWhole(t *testing.T) {
	for _, row := range []struct {
		network string
		plain   bool
	}{{"udp4", false}, {"udp6", false}, {"udp4", true}, {"udp6", true}} {
		t.Run(fmt.Sprintf("%s, plain %v", row.network, row.plain), func(t *testing.T) {
			a, b := join(t, Config{Plain: row.plain}, Config{Plain: row.plain})
			b.enter()
			l, err := net.ListenPacket(row.network, b.address(row.network))
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			a.enter()
			c, err := net.Dial(row.network, b.address(row.network))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			const trains, each, size, last = 20, 30, 1100, 77
			segment(t, c.(*net.UDPConn), size)
			got := make([]byte, 2000)
			for n := range trains {
				sent := text((each-1)*size + last)
				binary.BigEndian.PutUint64(sent, uint64(n))
				if _, err := c.Write(sent); err != nil {
					t.Fatal(err)
				}
				l.SetReadDeadline(time.Now().Add(patience))
				for i := range each {
					n, _, err := l.ReadFrom(got)
					if err != nil {
						t.Fatal(err)
					}
					same(t, got[:n], sent[i*size:min((i+1)*size, len(sent))])
				}
			}
			out, in := a.d.Stats(), b.d.Stats()
			t.Logf("out %+v, in %+v", out, in)
			if used := out.OutSupers > 0; used != a.d.Offload().OutUDP {
				t.Errorf("%d super-frames out, with offload %+v", out.OutSupers, a.d.Offload())
			}
			if used := in.InSupers > 0; used != b.d.Offload().InUDP {
				t.Errorf("%d super-frames in, with offload %+v", in.InSupers, b.d.Offload())
			}
		})
	}
}

// segment lets the kernel cut what is written to c into datagrams (UDP_SEGMENT).
func segment(t testing.TB, c *net.UDPConn, size int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT, size) })
	if err != nil {
		t.Fatal(err)
	}
}

// An operation is 1 MiB of TCP payload from one host to another. The processor time
// is that of both hosts and both devices.
func BenchmarkTCP(b *testing.B) {
	for _, flows := range []int{1, 8} {
		for _, plain := range []bool{false, true} {
			b.Run(fmt.Sprintf("flows=%d/plain=%v", flows, plain), func(b *testing.B) {
				here, there := join(b, Config{Plain: plain}, Config{Plain: plain})
				chunk := make([]byte, 1<<20)
				turn, arrived := make(chan struct{}), make(chan int64)
				for range flows {
					from, to := connect(b, "tcp4", here, there)
					go func() {
						for range turn {
							from.Write(chunk)
						}
						from.CloseWrite()
					}()
					go func() {
						n, _ := io.CopyBuffer(struct{ io.Writer }{io.Discard}, to, make([]byte, 256<<10))
						arrived <- n
					}()
				}
				b.SetBytes(int64(len(chunk)))
				before := processTime(b)
				for b.Loop() {
					turn <- struct{}{}
				}
				close(turn)
				total := int64(0)
				for range flows {
					total += <-arrived
				}
				b.ReportMetric((processTime(b)-before).Seconds()*1e9/float64(total), "cpu-s/GB")
				out, in := here.d.Stats(), there.d.Stats()
				b.ReportMetric(float64(out.OutFrames)/float64(out.OutFrames-out.OutSegments+out.OutSupers), "frames/read")
				b.ReportMetric(float64(in.InFrames)/float64(in.InFrames-in.InSegments+in.InSupers), "frames/write")
				b.ReportMetric(float64(out.OutFrames)/float64(out.OutBatches), "frames/batch")
			})
		}
	}
}

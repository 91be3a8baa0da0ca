//go:build linux

package integration

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	userRate  = 100_000 // bytes a second, as in the file of users
	rateSaved = userRate/4 + 64<<10
	ratedSize = 150_000 // what each of two connections carries
	sinkPort  = "9"
)

// rateUsers are limited in one direction each.
const rateUsers = "dave\n rate-down 100k\nfrank\n rate-up 100k\n"

// A gauge is told of all that arrives of what a user carries. At no moment may that be more
// than the time since the beginning allows, with what may have been saved before (a quarter
// of a second) and the largest piece; what is slow for other reasons is no matter.
type gauge struct {
	t     testing.TB
	begun time.Time

	mu    sync.Mutex // guards all below
	bytes int
	over  bool
}

func newGauge(t testing.TB) *gauge { return &gauge{t: t, begun: time.Now()} }

// Write counts.
func (g *gauge) Write(b []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.bytes += len(b)
	took := time.Since(g.begun)
	if most := int(took.Seconds()*userRate) + rateSaved; g.bytes > most && !g.over {
		g.over = true
		g.t.Errorf("%d bytes within %v, want %d at the most", g.bytes, took, most)
	}
	return len(b), nil
}

func (g *gauge) total() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.bytes
}

// Proves of TCP and UDP, both ways, that all that a user has open together is no faster than
// the user may be, and gets on.
func (w *world) checkRates(t *testing.T, c *client) {
	t.Run("rate-down of connections", func(t *testing.T) {
		g := newGauge(t)
		w.bySeveral(t, "dave", netip.MustParseAddrPort(lanGateway+":80"), func(conn net.Conn) error {
			fmt.Fprintf(conn, "GET /zeros/%d HTTP/1.0\r\n\r\n", ratedSize)
			n, err := io.Copy(g, conn)
			if err == nil && n < ratedSize {
				err = fmt.Errorf("%d bytes have come", n)
			}
			return err
		})
	})
	t.Run("rate-up of connections", func(t *testing.T) {
		g := newGauge(t)
		sink := w.lan.ns.Listen(lanGateway + ":" + sinkPort)
		go func() {
			for {
				conn, err := sink.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					n, _ := io.Copy(g, conn)
					fmt.Fprint(conn, n)
				}()
			}
		}()
		w.bySeveral(t, "frank", netip.MustParseAddrPort(lanGateway+":"+sinkPort), func(conn net.Conn) error {
			_, err := conn.Write(make([]byte, ratedSize))
			if err == nil {
				err = conn.(*net.TCPConn).CloseWrite()
			}
			if err != nil {
				return err
			}
			answer, err := io.ReadAll(conn)
			if err == nil && string(answer) != fmt.Sprint(ratedSize) {
				err = fmt.Errorf("%s bytes have come", answer)
			}
			return err
		})
	})
	dropped := 0
	for _, row := range []struct{ name, user string }{{"rate-down of datagrams", "dave"}, {"rate-up of datagrams", "frank"}} {
		t.Run(row.name, func(t *testing.T) {
			w.in(t).checkDatagramRate(row.user, row.user == "frank")
			if n := c.count("mixed", "dropped_rate"); n <= dropped {
				t.Errorf("datagrams dropped for the rate: %d, before %d", n, dropped)
			} else {
				dropped = n
			}
		})
	}
}

// bySeveral uses connections of a user to target at the same time, by CONNECT and by SOCKS5.
func (w *world) bySeveral(t *testing.T, user string, target netip.AddrPort, use func(net.Conn) error) {
	t.Helper()
	byConnect, status := w.connectAs(t, user, target.String())
	if status != http.StatusOK {
		t.Fatalf("CONNECT: status %d", status)
	}
	bySOCKS := w.socks5As(user, append([]byte{5, 1}, datagramTo(target, 0, "")[2:]...)) // which has the same in it
	readBound(t, bySOCKS)
	var using sync.WaitGroup
	for name, conn := range map[string]net.Conn{"CONNECT": byConnect, "SOCKS5": bySOCKS} {
		conn.SetDeadline(time.Now().Add(time.Minute))
		using.Go(func() {
			if err := use(conn); err != nil {
				t.Errorf("by %s: %v", name, err)
			}
		})
	}
	using.Wait()
}

// checkDatagramRate sends more than the user may send, or may get back.
func (w *world) checkDatagramRate(user string, up bool) {
	w.t.Helper()
	const size, count, enough = 1000, 1000, 20_000
	service := w.lan.ns.ListenPacket(lanGateway + ":0")
	control := w.socks5As(user, []byte{5, 3, 0, 1, 0, 0, 0, 0, 0, 0})
	defer control.Close()
	relay := net.UDPAddrFromAddrPort(readBound(w.t, control))
	sock := w.cli.ListenPacket("127.0.0.1:0")
	arrives := service
	if !up {
		arrives = sock
		go echoDatagrams(service)
	}
	g := newGauge(w.t)
	ends := make(chan struct{})
	go func() {
		defer close(ends)
		buf := make([]byte, 2*size)
		for {
			if _, _, err := arrives.ReadFrom(buf); err != nil {
				return
			}
			g.Write(buf[:size])
		}
	}()
	datagram := datagramTo(service.LocalAddr().(*net.UDPAddr).AddrPort(), 0, strings.Repeat("x", size))
	for range count {
		if _, err := sock.WriteTo(datagram, relay); err != nil {
			w.t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	eventually(w.t, 20*time.Second, "some of it arrives", func() error {
		if n := g.total(); n < enough {
			return fmt.Errorf("%d bytes", n)
		}
		return nil
	})
	arrives.Close()
	<-ends
}

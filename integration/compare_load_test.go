//go:build linux

package integration

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// Ports of the generators behind the hub, those of RFC 863 and RFC 864. Echo is the site's.
const (
	discardPort = "9"
	zerosPort   = "19"
)

// A lanLoad is the far end of every load: it discards and counts, or sends zeros.
// Neither end touches a byte of what it carries (sendfile, MSG_TRUNC), so that the
// generators take as little of the machine as they can, and the same for everybody.
type lanLoad struct {
	t        testing.TB
	zeros    zeros
	received atomic.Int64 // bytes discarded
	open     atomic.Int64 // connections
}

func startLANLoad(t testing.TB, ns *netns) *lanLoad {
	t.Helper()
	l := &lanLoad{t: t, zeros: newZeros(t)}
	go l.serve(ns.Listen("0.0.0.0:"+discardPort), func(c *net.TCPConn) { discard(c, &l.received) })
	go l.serve(ns.Listen("0.0.0.0:"+zerosPort), l.zeros.sendTo)
	return l
}

func (l *lanLoad) serve(listener net.Listener, handle func(*net.TCPConn)) {
	for {
		c, err := listener.Accept()
		if err != nil {
			return
		}
		l.open.Add(1)
		go func() {
			defer l.open.Add(-1)
			defer c.Close()
			handle(c.(*net.TCPConn))
		}()
	}
}

// WaitQuiet waits until what a load has left in queues has gone.
func (l *lanLoad) WaitQuiet() {
	eventually(l.t, 30*time.Second, "connections of the last load end", func() error {
		if l.open.Load() > 0 {
			return errors.New("some are open")
		}
		return nil
	})
	time.Sleep(200 * time.Millisecond)
}

// zeros is a piece of memory that the kernel sends from by reference.
type zeros struct{ fd int }

const zerosSize = 4 << 20

func newZeros(t testing.TB) zeros {
	t.Helper()
	fd, err := unix.MemfdCreate("zeros", unix.MFD_CLOEXEC)
	if err == nil {
		err = unix.Ftruncate(fd, zerosSize)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return zeros{fd}
}

// sendTo sends until the connection ends.
func (z zeros) sendTo(c *net.TCPConn) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	raw.Write(func(fd uintptr) bool {
		for {
			var from int64
			n, err := unix.Sendfile(int(fd), z.fd, &from, zerosSize)
			if err == unix.EAGAIN {
				return false
			}
			if n <= 0 && err != unix.EINTR {
				return true
			}
		}
	})
}

// discard takes all that comes until the connection ends. The kernel frees it
// unread (tcp(7), MSG_TRUNC); the buffer only says how much.
func discard(c *net.TCPConn, received *atomic.Int64) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	length := make([]byte, 1<<20)
	raw.Read(func(fd uintptr) bool {
		for {
			n, _, err := unix.Recvfrom(int(fd), length, unix.MSG_TRUNC)
			if err == unix.EAGAIN {
				return false
			}
			if n <= 0 && err != unix.EINTR {
				return true
			}
			received.Add(int64(max(n, 0)))
		}
	})
}

// A load is bulk data through an entrant until Stop.
type load struct {
	lan      *lanLoad
	conns    []*net.TCPConn
	flows    sync.WaitGroup
	before   int64        // of lan.received
	received atomic.Int64 // bytes, at this end
}

// startLoad runs flows in each wanted direction.
func (e *entrant) startLoad(d direction, flows int) *load {
	e.t.Helper()
	l := &load{lan: e.place.load, before: e.place.load.received.Load()}
	for range flows {
		if d.up {
			c := l.add(e, discardPort)
			l.flows.Go(func() { l.lan.zeros.sendTo(c) })
		}
		if d.down {
			c := l.add(e, zerosPort)
			l.flows.Go(func() { discard(c, &l.received) })
		}
	}
	return l
}

func (l *load) add(e *entrant, port string) *net.TCPConn {
	e.t.Helper()
	c, err := e.dial(net.JoinHostPort(lanGateway, port))
	if err != nil {
		l.Stop()
		e.t.Fatalf("%s: %v", e.name, err)
	}
	tcp := c.(*net.TCPConn)
	l.conns = append(l.conns, tcp)
	return tcp
}

// Bytes returns what has arrived at either end.
func (l *load) Bytes() int64 { return l.lan.received.Load() - l.before + l.received.Load() }

// Stop ends all flows and waits until they have gone. What is queued is thrown away.
func (l *load) Stop() {
	for _, c := range l.conns {
		c.SetLinger(0)
		c.Close()
	}
	l.flows.Wait()
	l.lan.WaitQuiet()
}

const (
	smallPayload = 64
	smallBatch   = 64
	// smallOffered packets a second are more than any entrant carries, and leave the
	// machine time to carry them.
	smallOffered = 150_000
)

// A packetLoad is small UDP packets one way until Stop.
type packetLoad struct {
	received atomic.Int64
	ends     []net.PacketConn
	group    sync.WaitGroup
}

// startPackets sends them between a socket in the entrant's namespace and one in the LAN.
func (e *entrant) startPackets(d direction) *packetLoad {
	e.t.Helper()
	inner, outer := e.place.lan.ns.ListenPacket("0.0.0.0:0"), e.ns.ListenPacket("0.0.0.0:0")
	l := &packetLoad{ends: []net.PacketConn{inner, outer}}
	_, port, _ := net.SplitHostPort(inner.LocalAddr().String())
	there, err := net.ResolveUDPAddr("udp4", net.JoinHostPort(lanGateway, port))
	if err != nil {
		e.t.Fatal(err)
	}
	// The first packet tells the LAN where the entrant is.
	outer.WriteTo([]byte("here"), there)
	inner.SetReadDeadline(time.Now().Add(5 * time.Second))
	_, here, err := inner.ReadFrom(make([]byte, 16))
	if err != nil {
		e.t.Fatalf("%s: the first packet: %v", e.name, err)
	}
	inner.SetReadDeadline(time.Time{})
	if d.up {
		l.group.Go(func() { sendPackets(outer, there) })
		l.group.Go(func() { countPackets(inner, &l.received) })
	} else {
		l.group.Go(func() { sendPackets(inner, here) })
		l.group.Go(func() { countPackets(outer, &l.received) })
	}
	return l
}

func (l *packetLoad) Stop() {
	for _, c := range l.ends {
		c.Close()
	}
	l.group.Wait()
	time.Sleep(300 * time.Millisecond) // until queues are empty
}

// sendPackets sends smallOffered packets a second until the socket is closed.
func sendPackets(c net.PacketConn, to net.Addr) {
	batch := make([]ipv4.Message, smallBatch)
	for i := range batch {
		batch[i] = ipv4.Message{Buffers: [][]byte{make([]byte, smallPayload)}, Addr: to}
	}
	p := ipv4.NewPacketConn(c)
	for begun, sent := time.Now(), 0; ; {
		due := int(time.Since(begun).Seconds() * smallOffered)
		for sent < due {
			n, err := p.WriteBatch(batch, 0)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			sent += max(n, 1) // an error stands for a packet lost
		}
		time.Sleep(500 * time.Microsecond)
	}
}

func countPackets(c net.PacketConn, received *atomic.Int64) {
	setReadBuffer(c, 4<<20)
	batch := make([]ipv4.Message, smallBatch)
	for i := range batch {
		batch[i].Buffers = [][]byte{make([]byte, smallPayload)}
	}
	p := ipv4.NewPacketConn(c)
	for {
		n, err := p.ReadBatch(batch, 0)
		if err != nil {
			return
		}
		received.Add(int64(n))
	}
}

// setReadBuffer goes beyond the system's limit, which root may.
func setReadBuffer(c net.PacketConn, size int) {
	raw, err := c.(syscall.Conn).SyscallConn()
	if err == nil {
		raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size) })
	}
}

// echoOnce sends a byte and waits so long at most for it to come back.
func echoOnce(c net.Conn, within time.Duration) error {
	c.SetDeadline(time.Now().Add(within))
	defer c.SetDeadline(time.Time{})
	var b [1]byte
	if _, err := c.Write(b[:]); err != nil {
		return err
	}
	_, err := io.ReadFull(c, b[:])
	return err
}

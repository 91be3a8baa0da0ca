//go:build !linux

package udpaccel

import (
	"net"
	"net/netip"
	"time"
)

func newUDPSocket(c *net.UDPConn) (socket, error) { return udpSocket{c}, nil }

// udpSocket sends and receives one datagram a call: what every system can.
type udpSocket struct{ *net.UDPConn }

func (s udpSocket) write(slab []byte, runs []run, to netip.AddrPort) (int, error) {
	for i, r := range runs {
		for at := r.start; at < r.end; at += r.size {
			if _, err := s.WriteToUDPAddrPort(slab[at:min(at+r.size, r.end)], to); err != nil {
				return i, err
			}
		}
	}
	return len(runs), nil
}

func (s udpSocket) read(in *inbox) error {
	in.n = 0
	n, from, err := s.ReadFromUDPAddrPort(in.slot(0))
	if err != nil {
		return err
	}
	in.data[0], in.from[0], in.n = in.slot(0)[:n], unmap(from), 1
	return nil
}

func (s udpSocket) setReadDeadline(t time.Time) error { return s.SetReadDeadline(t) }
func (s udpSocket) localPort() uint16                 { return portOf(s.LocalAddr()) }
func (s udpSocket) mtu(netip.AddrPort) int            { return 0 }
func (s udpSocket) close() error                      { return s.Close() }

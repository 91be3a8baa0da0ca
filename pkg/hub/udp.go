package hub

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"softether-go/pkg/frame"
	"softether-go/pkg/udpaccel"
	"softether-go/pkg/wire"
)

// acceptUDP opens the server's side of UDP acceleration, on a port of its own. It
// returns nothing if the client does not want it or the hub does not do it. Unlike the
// reference implementation the hub does not make inner TCP's segments smaller: what is
// too long for a datagram goes by TCP.
func (h *Hub) acceptUDP(c *conn, l wire.Login, cleartext bool) (*udpaccel.Path, *wire.UDPGrant, error) {
	local, peer := addrPort(c.raw.LocalAddr()), addrPort(c.raw.RemoteAddr())
	if !h.cfg.UDP || l.UDP == nil || !local.IsValid() || !peer.IsValid() {
		return nil, nil, nil
	}
	socket, err := net.ListenPacket("udp", netip.AddrPortFrom(local.Addr(), 0).String())
	if err != nil {
		return nil, nil, fmt.Errorf("open a UDP socket: %w", err)
	}
	keys := make([]byte, udpaccel.KeyLenV1+udpaccel.KeyLenV2+8)
	rand.Read(keys)
	cookies := keys[udpaccel.KeyLenV1+udpaccel.KeyLenV2:]
	g := &wire.UDPGrant{
		Version: min(l.UDP.MaxVersion, int(h.cfg.maxUDPVersion())), Server: local.Addr(), Port: addrPort(socket.LocalAddr()).Port(),
		Key: keys[:udpaccel.KeyLenV1], KeyV2: keys[udpaccel.KeyLenV1:][:udpaccel.KeyLenV2],
		ServerCookie: binary.BigEndian.Uint32(cookies) | 1, ClientCookie: binary.BigEndian.Uint32(cookies[4:]) | 1,
		Encrypt: !cleartext, Fast: true,
	}
	cfg := udpaccel.Config{
		Version: udpaccel.Version(g.Version), Fast: true, Wanted: true, SendKey: g.Key, ReceiveKey: l.UDP.Key,
		SendCookie: g.ClientCookie, ReceiveCookie: g.ServerCookie, Compress: l.Compress, Log: h.cfg.Log,
		Peers: []netip.AddrPort{netip.AddrPortFrom(peer.Addr(), l.UDP.Port)},
	}
	switch {
	case cleartext:
		cfg.Version = udpaccel.Plain
	case g.Version == 2:
		cfg.SendKey, cfg.ReceiveKey = g.KeyV2, l.UDP.KeyV2
	}
	path, err := udpaccel.New(socket, cfg)
	if err != nil {
		socket.Close()
		return nil, nil, err
	}
	return path, g, nil
}

func (c Config) maxUDPVersion() udpaccel.Version {
	if c.MaxUDPVersion == 0 {
		return udpaccel.MaxVersion
	}
	return c.MaxUDPVersion
}

func addrPort(a net.Addr) netip.AddrPort {
	ap, _ := netip.ParseAddrPort(a.String())
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// serveUDP receives by s's path until it is closed, which the end of s does. The caller
// holds mu.
func (h *Hub) serveUDP(s *session) {
	if s.udp == nil {
		return
	}
	h.running.Add(1)
	go func() {
		defer h.running.Done()
		s.udp.Run(context.Background(), frame.WriterFunc(func(frames [][]byte) error { // ended by its Close
			if !s.monitor {
				h.lan.forward(s.port, frames)
			}
			return nil
		}))
	}()
}

// sendUDP sends units by UDP, if that is where they go.
func (c *conn) sendUDP(s *session, units []byte) bool {
	if s.udp == nil || len(units) == 0 || !s.udp.Usable() {
		return false
	}
	c.views = appendViews(c.views[:0], units)
	for _, f := range c.views {
		if len(f) > s.udp.MaxFrame() {
			return false
		}
	}
	return s.udp.WriteFrames(c.views) == nil
}

package dnsproxy

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// idleTimeout is how long a TCP client may be silent.
const idleTimeout = 10 * time.Second

// serveUDP reads questions until the port is closed, and waits for the answers.
func (s *Server) serveUDP(ctx context.Context) {
	var asking sync.WaitGroup
	defer asking.Wait()
	buf := make([]byte, maxMessage)
	for {
		n, from, to, err := s.packets.ReadFromTo(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // what an earlier answer met
		}
		what, code := judge(buf[:n])
		switch what {
		case drop:
			s.counters.dropped.Add(1)
			continue
		case refuse:
			s.counters.refused.Add(1)
			s.reply(errorAnswer(buf[:n], code), to.Addr(), from)
			continue
		}
		select {
		case s.slots <- struct{}{}:
		default:
			s.counters.dropped.Add(1)
			continue
		}
		s.counters.overUDP.Add(1)
		question := append([]byte(nil), buf[:n]...)
		asking.Go(func() { // one for each slot at most
			defer func() { <-s.slots }()
			s.reply(s.fit(s.answer(ctx, question, "udp"), question), to.Addr(), from)
		})
	}
}

func (s *Server) reply(b []byte, from netip.Addr, to netip.AddrPort) {
	if _, err := s.packets.WriteFromTo(b, from, to); err != nil && !errors.Is(err, net.ErrClosed) {
		s.cfg.Log.Debug("DNS answer not sent", "to", to, "cause", err)
	}
}

// fit cuts an answer that is longer than a datagram of IPv4 can be; name servers see to
// what the client said that it takes.
func (s *Server) fit(b, question []byte) []byte {
	const most = 65507
	if len(b) <= most {
		return b
	}
	cut := errorAnswer(question, dnsmessage.RCodeSuccess)
	cut[2] |= 2 // truncated
	return cut
}

// serveTCP takes clients until the port is closed, and waits for them.
func (s *Server) serveTCP(ctx context.Context) {
	var clients sync.WaitGroup
	defer clients.Wait()
	slots := make(chan struct{}, s.cfg.MaxConns)
	for {
		c, err := s.ln.Accept()
		if err != nil {
			return
		}
		select {
		case slots <- struct{}{}:
		default:
			s.counters.dropped.Add(1)
			c.Close()
			continue
		}
		clients.Go(func() {
			defer func() { c.Close(); <-slots }()
			stop := context.AfterFunc(ctx, func() { c.Close() })
			defer stop()
			s.serveConn(ctx, c)
		})
	}
}

// serveConn answers the questions of one client, one after the other.
func (s *Server) serveConn(ctx context.Context, c net.Conn) {
	for {
		_ = c.SetDeadline(time.Now().Add(idleTimeout))
		question, err := readMessage(c)
		if err != nil || len(question) < headerLen {
			return
		}
		what, code := judge(question)
		var b []byte
		switch what {
		case drop:
			s.counters.dropped.Add(1)
			return
		case refuse:
			s.counters.refused.Add(1)
			b = errorAnswer(question, code)
		case ask:
			select {
			case s.slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			s.counters.overTCP.Add(1)
			b = s.answer(ctx, question, "tcp")
			<-s.slots
		}
		_ = c.SetDeadline(time.Now().Add(idleTimeout))
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)); err != nil {
			return
		}
	}
}

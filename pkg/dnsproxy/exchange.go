package dnsproxy

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// maxWaiting is how many clients may wait for one exchange: more than programs that all
// start at once, fewer than a loop takes.
const maxWaiting = 64

// An exchange is a question under way, and its answer once done is closed.
type exchange struct {
	done    chan struct{}
	answer  []byte // under whatever identifier; not to be changed
	waiting int    // guarded by the Server's mu
}

// answer returns the answer to a client's question, which it changes nothing of. It waits
// for whoever asks the same already.
func (s *Server) answer(ctx context.Context, question []byte, network string) []byte {
	id := binary.BigEndian.Uint16(question)
	key := network + string(question[2:])
	s.mu.Lock()
	x := s.underWay[key]
	first := x == nil
	if first {
		x = &exchange{done: make(chan struct{})}
		s.underWay[key] = x
	}
	x.waiting++
	many := x.waiting > maxWaiting
	s.mu.Unlock()
	switch {
	case many:
		s.counters.refused.Add(1)
		s.cfg.Log.Debug("DNS: a question is refused that many wait for already, as if it went in circles")
		return errorAnswer(question, dnsmessage.RCodeRefused)
	case first:
		x.answer = s.find(ctx, question, network)
		s.mu.Lock()
		delete(s.underWay, key)
		s.mu.Unlock()
		close(x.done)
	default:
		s.counters.shared.Add(1)
		<-x.done
	}
	b := append([]byte(nil), x.answer...)
	setID(b, id)
	return b
}

// find asks name servers, and answers itself if none does.
func (s *Server) find(ctx context.Context, question []byte, network string) []byte {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	if b, ok := s.findBeside(ctx, question); ok {
		return b
	}
	b, err := s.askAll(ctx, question, network)
	switch {
	case err == nil:
		s.counters.answered.Add(1)
		return b
	case errors.Is(err, errNoServer):
		s.counters.refused.Add(1)
		s.cfg.Log.Debug("DNS question refused", "cause", err)
		return errorAnswer(question, dnsmessage.RCodeRefused)
	}
	s.counters.failed.Add(1)
	s.cfg.Log.Debug("DNS question not answered", "cause", err)
	return errorAnswer(question, dnsmessage.RCodeServerFailure)
}

// askAll asks one name server after the other. An answer that a server cannot tell is
// better than none.
func (s *Server) askAll(ctx context.Context, question []byte, network string) (answer []byte, err error) {
	servers, own := s.cfg.Upstream.NameServers()
	if len(own) == 0 {
		return nil, errNoTunnel
	}
	last := errNoServer
	for _, server := range servers {
		if slices.Contains(own, server) || server.IsLoopback() || server.IsUnspecified() {
			continue
		}
		b, err := s.askOne(ctx, server, question, network)
		switch {
		case err == nil && !lacking(b):
			return b, nil
		case err == nil:
			answer = b
		case answer == nil:
			last = fmt.Errorf("ask %v: %w", server, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	if answer != nil {
		return answer, nil
	}
	return nil, last
}

// askOne asks over UDP, twice, and over TCP if that answer was cut and the client is one
// of TCP.
func (s *Server) askOne(ctx context.Context, server netip.Addr, question []byte, network string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	b, err := s.over(ctx, "udp", server, question)
	if network == "tcp" && err == nil && truncated(b) {
		return s.over(ctx, "tcp", server, question)
	}
	return b, err
}

// over asks on a connection of its own, so each question has its own source port.
func (s *Server) over(ctx context.Context, network string, server netip.Addr, question []byte) ([]byte, error) {
	conn, err := s.cfg.Upstream.DialContext(ctx, network, netip.AddrPortFrom(server, 53).String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var random [2]byte
	rand.Read(random[:])
	id := binary.BigEndian.Uint16(random[:])
	out := append(binary.BigEndian.AppendUint16(nil, uint16(len(question))), question...)
	setID(out[2:], id)
	if network == "tcp" {
		return overTCP(conn, out, id)
	}
	return overUDP(ctx, conn, out[2:], id)
}

// resend is after how long without an answer a datagram is sent again.
const resend = time.Second

// overUDP waits for the datagram that answers. Others are forged or late.
func overUDP(ctx context.Context, conn net.Conn, question []byte, id uint16) ([]byte, error) {
	if _, err := conn.Write(question); err != nil {
		return nil, err
	}
	again := time.AfterFunc(resend, func() { _, _ = conn.Write(question) })
	defer again.Stop()
	b := make([]byte, maxMessage)
	for {
		n, err := conn.Read(b)
		if err != nil {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			return nil, err
		}
		if answers(b[:n], question, id) {
			return append([]byte(nil), b[:n]...), nil
		}
	}
}

// overTCP reads one message. out has its length before it.
func overTCP(conn net.Conn, out []byte, id uint16) ([]byte, error) {
	if _, err := conn.Write(out); err != nil {
		return nil, err
	}
	b, err := readMessage(conn)
	if err == nil && !answers(b, out[2:], id) {
		err = errors.New("the answer is to another question")
	}
	return b, err
}

// readMessage reads a message after its length (RFC 1035, 4.2.2).
func readMessage(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(r, b)
	return b, err
}

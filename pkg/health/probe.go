package health

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"softether-go/pkg/frame"
	"softether-go/pkg/inet"
	"softether-go/pkg/netcfg"
)

// A question has been sent, and its answer is looked for among the inbound frames.
type question struct {
	// match reports whether a frame is the answer, and the station it speaks of. It
	// must not keep the frame.
	match  func(f []byte) (found mac, ok bool, err error)
	take   bool // the answer is for us alone: the local end would not know what it is
	answer chan found
}

type mac [6]byte

type found struct {
	mac mac
	err error
}

var broadcast = mac{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// WriteFrames passes inbound frames on, but for what answers a question of ours.
func (m *Monitor) WriteFrames(frames [][]byte) error {
	q := m.wait.Load()
	if q == nil {
		return m.cfg.Endpoint.WriteFrames(frames)
	}
	for i, f := range frames {
		if len(f) < frame.HeaderLen {
			continue
		}
		who, ok, err := q.match(f)
		if !ok {
			continue
		}
		m.wait.CompareAndSwap(q, nil)
		select {
		case q.answer <- found{who, err}:
		default: // a second one
		}
		if !q.take {
			continue
		}
		if err := m.pass(frames[:i:i]); err != nil {
			return err
		}
		return m.pass(frames[i+1:])
	}
	return m.cfg.Endpoint.WriteFrames(frames)
}

func (m *Monitor) pass(frames [][]byte) error {
	if len(frames) == 0 {
		return nil
	}
	return m.cfg.Endpoint.WriteFrames(frames)
}

// ask asks the target and returns who has answered.
func (m *Monitor) ask(ctx context.Context, c netcfg.Config) (who string, err error) {
	t := m.cfg.Target
	switch {
	case t.Name != "":
		return m.askNames(ctx, c, t.Name)
	case t.Addr.IsValid():
		if isOwn(c, t.Addr) {
			return "", fmt.Errorf("%v is our own address: probe another", t.Addr)
		}
		hop, err := m.hop(ctx, c, t.Addr)
		if err != nil {
			return "", err
		}
		return t.Addr.String(), m.echo(ctx, c, hop, t.Addr)
	}
	if to := router(c); to.IsValid() {
		_, err := m.resolve(ctx, c, to)
		return fmt.Sprintf("gateway %v", to), err
	}
	for _, s := range c.DNS.Servers { // a hub without a way out often has one of its own
		if nextHop(c, s) == s && source(c, s).IsValid() && !isOwn(c, s) {
			_, err := m.resolve(ctx, c, s)
			return fmt.Sprintf("name server %v", s), err
		}
	}
	return "the server", nil // there is nobody else to ask, and its session is up
}

// send sends a question until it is answered.
func (m *Monitor) send(ctx context.Context, f []byte, q *question) (mac, error) {
	q.answer = make(chan found, 1)
	m.wait.Store(q)
	defer m.wait.Store(nil)
	again := time.NewTicker(resendTime)
	defer again.Stop()
	for {
		out := m.out.Load()
		if out == nil {
			return mac{}, errors.New("the session has ended")
		}
		if err := (*out).WriteFrames([][]byte{f}); err != nil {
			return mac{}, err
		}
		select {
		case a := <-q.answer:
			return a.mac, a.err
		case <-again.C:
		case <-ctx.Done():
			return mac{}, ctx.Err()
		}
	}
}

// resolve asks for a station by ARP (RFC 826), or neighbour discovery (RFC 4861).
func (m *Monitor) resolve(ctx context.Context, c netcfg.Config, addr netip.Addr) (mac, error) {
	from, by := source(c, addr), "ARP"
	if !from.IsValid() {
		return mac{}, fmt.Errorf("no way to %v: the VPN gives no address of its family", addr)
	}
	ask, answer := m.arpRequest, arpReply
	if addr.Is6() {
		ask, answer, by = m.solicitation, advertisement, "neighbour discovery"
	}
	station, err := m.send(ctx, ask(from, addr), &question{match: func(f []byte) (mac, bool, error) {
		who, of, ok := answer(f)
		return who, ok && of == addr, nil
	}})
	if err != nil {
		return station, fmt.Errorf("%v does not answer to %s through the tunnel: %w", addr, by, err)
	}
	return station, nil
}

// hop returns the station by which an address is reached.
func (m *Monitor) hop(ctx context.Context, c netcfg.Config, to netip.Addr) (mac, error) {
	via := nextHop(c, to)
	if !via.IsValid() {
		return mac{}, fmt.Errorf("no way to %v: the VPN has no gateway", to)
	}
	return m.resolve(ctx, c, via)
}

// echo asks for an ICMP echo (RFC 792, RFC 4443).
func (m *Monitor) echo(ctx context.Context, c netcfg.Config, hop mac, to netip.Addr) error {
	id, from := rand.Uint32(), source(c, to)
	kind := icmp
	if to.Is6() {
		kind = icmp6
	}
	f := m.packet(from, to, hop, kind.proto, kind.echoRequest(from, to, id))
	_, err := m.send(ctx, f, &question{take: true, match: func(f []byte) (mac, bool, error) {
		src, proto, p, ok := ip(f)
		return hop, ok && src == to && proto == kind.proto && kind.isEchoReply(p, id), nil
	}})
	if err != nil {
		return fmt.Errorf("%v does not answer to ping through the tunnel: %w", to, err)
	}
	return nil
}

// askNames asks one name server after the other.
func (m *Monitor) askNames(ctx context.Context, c netcfg.Config, name string) (who string, err error) {
	err = errors.New("the VPN names no name server; -dns gives one")
	deadline, _ := ctx.Deadline()
	for i, s := range c.DNS.Servers {
		if !source(c, s).IsValid() {
			continue
		}
		share := time.Until(deadline) / time.Duration(len(c.DNS.Servers)-i)
		one, cancel := context.WithTimeout(ctx, share)
		err = m.askName(one, c, s, name)
		cancel()
		if err == nil {
			return fmt.Sprintf("name server %v", s), nil
		}
	}
	return "", err
}

func (m *Monitor) askName(ctx context.Context, c netcfg.Config, server netip.Addr, name string) error {
	hop, err := m.hop(ctx, c, server)
	if err != nil {
		return err
	}
	id, port := uint16(rand.Uint32()), uint16(32768+rand.IntN(28000)) // Linux's ephemeral ports
	query, err := dnsQuery(id, name)
	if err != nil {
		return err
	}
	from := source(c, server)
	f := m.packet(from, server, hop, inet.ProtoUDP, datagram(from, server, port, query))
	_, err = m.send(ctx, f, &question{take: true, match: func(f []byte) (mac, bool, error) {
		src, proto, p, ok := ip(f)
		if !ok || src != server || proto != inet.ProtoUDP || len(p) < 8 ||
			binary.BigEndian.Uint16(p) != 53 || binary.BigEndian.Uint16(p[2:]) != port {
			return hop, false, nil
		}
		ok, err := dnsAnswer(p[8:], id)
		return hop, ok, err
	}})
	if err != nil {
		return fmt.Errorf("name server %v, asked for %s through the tunnel: %w", server, name, err)
	}
	return nil
}

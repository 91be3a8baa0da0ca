package gateway

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	dnsTTL     = 60 // seconds
	dnsMax     = 4096
	dnsTimeout = 10 * time.Second // of a TCP connection
	dnsClients = 64               // TCP connections at a time
)

// serveDNS answers over UDP until pc is closed.
func (g *Gateway) serveDNS(pc net.PacketConn) error {
	buf := make([]byte, dnsMax)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return fmt.Errorf("DNS: %w", err)
		}
		if resp, err := g.resolve(buf[:n], g.cfg.Truncate); err == nil {
			if _, err := pc.WriteTo(resp, from); err != nil {
				g.cfg.Log.Debug("DNS answer not sent", "to", from, "cause", err)
			}
		}
	}
}

// serveDNSTCP answers over TCP until ln is closed.
func (g *Gateway) serveDNSTCP(ctx context.Context, ln net.Listener) error {
	var clients sync.WaitGroup
	defer clients.Wait()
	slots := make(chan struct{}, dnsClients)
	for {
		c, err := ln.Accept()
		if err != nil {
			return fmt.Errorf("DNS over TCP: %w", err)
		}
		select {
		case slots <- struct{}{}:
		default:
			c.Close()
			continue
		}
		clients.Go(func() {
			defer func() { c.Close(); <-slots }()
			stop := context.AfterFunc(ctx, func() { c.Close() })
			defer stop()
			c.SetDeadline(time.Now().Add(dnsTimeout))
			if err := g.resolveTCP(c); err != nil && !errors.Is(err, io.EOF) {
				g.cfg.Log.Debug("DNS over TCP ended", "peer", c.RemoteAddr(), "cause", err)
			}
		})
	}
}

// resolveTCP answers the questions of one connection, each after its length
// (RFC 1035, 4.2.2).
func (g *Gateway) resolveTCP(c net.Conn) error {
	var size [2]byte
	for {
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return err
		}
		query := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(c, query); err != nil {
			return err
		}
		resp, err := g.resolve(query, false)
		if err != nil {
			return err
		}
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(resp))), resp...)); err != nil {
			return err
		}
	}
}

// resolve answers one query, or with truncate says that it must come by TCP.
func (g *Gateway) resolve(query []byte, truncate bool) ([]byte, error) {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil {
		return nil, err
	}
	q, err := p.Question()
	if err != nil || h.Response {
		return nil, errors.New("no question")
	}
	addr, known := g.cfg.Names[strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))]
	head := dnsmessage.Header{
		ID: h.ID, Response: true, Authoritative: true, RecursionDesired: h.RecursionDesired,
		RecursionAvailable: true, Truncated: truncate,
	}
	if !known {
		head.RCode = dnsmessage.RCodeNameError
	}
	if !known || truncate || q.Type != typeOf(addr) {
		addr = netip.Addr{}
	}
	return buildAnswer(head, q, addr)
}

func typeOf(a netip.Addr) dnsmessage.Type {
	if a.Is4() {
		return dnsmessage.TypeA
	}
	return dnsmessage.TypeAAAA
}

// buildAnswer makes the message, with addr as its record if that is valid.
func buildAnswer(head dnsmessage.Header, q dnsmessage.Question, addr netip.Addr) ([]byte, error) {
	b := dnsmessage.NewBuilder(nil, head)
	b.EnableCompression()
	rh := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: dnsTTL}
	err := errors.Join(b.StartQuestions(), b.Question(q), b.StartAnswers())
	switch {
	case err != nil:
		return nil, err
	case addr.Is4():
		err = b.AResource(rh, dnsmessage.AResource{A: addr.As4()})
	case addr.Is6():
		err = b.AAAAResource(rh, dnsmessage.AAAAResource{AAAA: addr.As16()})
	}
	if err != nil {
		return nil, err
	}
	return b.Finish()
}

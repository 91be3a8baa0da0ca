package resolver

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"golang.org/x/net/dns/dnsmessage"
)

// world is a network of fake DNS servers, all in one test bubble.
type world struct {
	t      *testing.T
	answer func(w *world, p *peer, m dnsmessage.Message)
	wg     sync.WaitGroup

	mu    sync.Mutex
	asked []string // "udp 10.0.0.1 A name."
	open  int      // connections not closed by the resolver
}

// peer is the server's side of one connection.
type peer struct {
	net.Conn
	network string
	server  string
}

// reply sends m as the network at hand wants it.
func (p *peer) reply(m dnsmessage.Message) {
	m.Response = true
	m.Answers = slices.Clone(m.Answers) // packing writes to them
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	p.raw(b)
}

func (p *peer) raw(b []byte) {
	if p.network == "tcp" {
		b = append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
	}
	_, _ = p.Write(b)
}

func (w *world) dial(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error) {
	client, far := net.Pipe()
	p := &peer{far, network, server.Addr().String()}
	w.mu.Lock()
	w.open++
	w.mu.Unlock()
	w.wg.Go(func() {
		defer func() { _ = far.Close() }()
		w.serve(p)
		_, _ = io.Copy(io.Discard, far) // until the resolver hangs up
		w.mu.Lock()
		w.open--
		w.mu.Unlock()
	})
	return client, nil
}

func (w *world) serve(p *peer) {
	buf := make([]byte, 1500)
	n, err := p.Read(buf)
	if err != nil {
		return
	}
	msg := buf[:n]
	if p.network == "tcp" {
		msg = msg[2:]
	}
	var m dnsmessage.Message
	if err := m.Unpack(msg); err != nil || len(m.Questions) != 1 {
		w.t.Errorf("question: %v", err)
		return
	}
	q := m.Questions[0]
	w.mu.Lock()
	w.asked = append(w.asked, fmt.Sprintf("%s %s %s %s", p.network, p.server, q.Type.String()[4:], q.Name))
	w.mu.Unlock()
	w.answer(w, p, m)
}

func (w *world) questions() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := slices.Clone(w.asked)
	w.asked = nil
	return out
}

// run gives f a resolver that knows servers 10.0.0.1 and 10.0.0.2, in a bubble.
func run(t *testing.T, answer func(w *world, p *peer, m dnsmessage.Message), f func(t *testing.T, w *world, r *Resolver)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, answer: answer}
		r := New(Config{Dial: w.dial})
		r.SetServers([]netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")}, nil)
		f(t, w, r)
		w.wg.Wait()
		if w.open != 0 {
			t.Errorf("connections left open: %d", w.open)
		}
	})
}

func name(s string) dnsmessage.Name { return dnsmessage.MustNewName(s) }

func rr(owner string, ttl uint32, body dnsmessage.ResourceBody) dnsmessage.Resource {
	h := dnsmessage.ResourceHeader{Name: name(owner), Class: dnsmessage.ClassINET, TTL: ttl}
	return dnsmessage.Resource{Header: h, Body: body}
}

func a(owner string, ttl uint32, addr string) dnsmessage.Resource {
	return rr(owner, ttl, &dnsmessage.AResource{A: netip.MustParseAddr(addr).As4()})
}

func aaaa(owner string, ttl uint32, addr string) dnsmessage.Resource {
	return rr(owner, ttl, &dnsmessage.AAAAResource{AAAA: netip.MustParseAddr(addr).As16()})
}

func cname(owner string, ttl uint32, target string) dnsmessage.Resource {
	return rr(owner, ttl, &dnsmessage.CNAMEResource{CNAME: name(target)})
}

func soa(ttl, minimum uint32) dnsmessage.Resource {
	return rr("example.", ttl, &dnsmessage.SOAResource{NS: name("ns.example."), MBox: name("x.example."), MinTTL: minimum})
}

// zone answers from records, with NODATA or NXDOMAIN where there is none.
func zone(records ...dnsmessage.Resource) func(*world, *peer, dnsmessage.Message) {
	return func(_ *world, p *peer, m dnsmessage.Message) {
		q := m.Questions[0]
		exists := false
		owner := q.Name
		for _, r := range records {
			if !strings.EqualFold(r.Header.Name.String(), owner.String()) {
				continue
			}
			exists = true
			c, alias := r.Body.(*dnsmessage.CNAMEResource)
			isA, isAAAA := false, false
			switch r.Body.(type) {
			case *dnsmessage.AResource:
				isA = true
			case *dnsmessage.AAAAResource:
				isAAAA = true
			}
			if alias || isA && q.Type == dnsmessage.TypeA || isAAAA && q.Type == dnsmessage.TypeAAAA {
				m.Answers = append(m.Answers, r)
			}
			if alias {
				owner = c.CNAME
			}
		}
		if !exists {
			m.RCode = dnsmessage.RCodeNameError
		}
		if len(m.Answers) == 0 {
			m.Authorities = []dnsmessage.Resource{soa(300, 60)}
		}
		p.reply(m)
	}
}

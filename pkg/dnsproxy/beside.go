package dnsproxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// A Beside is a resolver beside the tunnel, for the names that are its. It is asked for
// addresses; what else there is about these names, the name servers of the tunnel are not
// asked for it either.
type Beside interface {
	// TakesName reports whether a name is its.
	TakesName(name string) bool
	// LookupNetIP returns the addresses of a name, of the network "ip4", "ip6" or, for
	// both, "ip". An error that is no *net.DNSError is a refusal.
	LookupNetIP(ctx context.Context, network, name string) ([]netip.Addr, error)
}

// besideTTL is for how long its answers may be kept: how long is really so it does not
// tell, and it keeps them itself.
const besideTTL = 10

// findBeside answers a question about a name that is not the tunnel's, and is false for
// all others.
func (s *Server) findBeside(ctx context.Context, question []byte) ([]byte, bool) {
	if s.cfg.Beside == nil {
		return nil, false
	}
	var p dnsmessage.Parser
	if _, err := p.Start(question); err != nil {
		return nil, false
	}
	q, err := p.Question()
	if err != nil || !s.cfg.Beside.TakesName(strings.TrimSuffix(q.Name.String(), ".")) {
		return nil, false
	}
	s.counters.beside.Add(1)
	network := map[dnsmessage.Type]string{dnsmessage.TypeA: "ip4", dnsmessage.TypeAAAA: "ip6"}[q.Type]
	if network == "" || q.Class != dnsmessage.ClassINET {
		return errorAnswer(question, dnsmessage.RCodeNotImplemented), true
	}
	name := strings.TrimSuffix(q.Name.String(), ".")
	addrs, err := s.cfg.Beside.LookupNetIP(ctx, network, name)
	if isNotFound(err) {
		// That it has none of this family is another answer than that there is no such name.
		if _, err = s.cfg.Beside.LookupNetIP(ctx, "ip", name); isNotFound(err) {
			return errorAnswer(question, dnsmessage.RCodeNameError), true
		}
	}
	if err != nil {
		s.cfg.Log.Debug("DNS question not answered beside the tunnel", "name", name, "cause", err)
		if _, ok := errors.AsType[*net.DNSError](err); ok {
			return errorAnswer(question, dnsmessage.RCodeServerFailure), true
		}
		return errorAnswer(question, dnsmessage.RCodeRefused), true // by the rules
	}
	b, err := besideAnswer(question, q, addrs)
	if err != nil {
		return errorAnswer(question, dnsmessage.RCodeServerFailure), true
	}
	return b, true
}

func isNotFound(err error) bool {
	d, ok := errors.AsType[*net.DNSError](err)
	return ok && d.IsNotFound
}

// besideAnswer makes the answer to q, which the message question asks.
func besideAnswer(question []byte, q dnsmessage.Question, addrs []netip.Addr) ([]byte, error) {
	m := dnsmessage.Message{
		Header: dnsmessage.Header{
			ID: uint16(question[0])<<8 | uint16(question[1]), Response: true,
			RecursionDesired: question[2]&1 != 0, RecursionAvailable: true,
		},
		Questions: []dnsmessage.Question{q},
	}
	const most = 24 // in 512 bytes with the longest of names, by compression
	for _, a := range addrs[:min(len(addrs), most)] {
		h := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: besideTTL}
		switch a = a.Unmap(); {
		case a.Is4() && q.Type == dnsmessage.TypeA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: a.As4()}})
		case a.Is6() && q.Type == dnsmessage.TypeAAAA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
		}
	}
	return m.Pack()
}

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
// addresses, and for the names of addresses; what else there is about these names, the name
// servers of the tunnel are not asked for it either.
type Beside interface {
	// TakesName reports whether a name is its.
	TakesName(name string) bool
	// LookupNetIP returns the addresses of a name, of the network "ip4", "ip6" or, for
	// both, "ip". An error that is no *net.DNSError is a refusal.
	LookupNetIP(ctx context.Context, network, name string) ([]netip.Addr, error)
	// LookupPTR returns the names of the address that a name below in-addr.arpa or ip6.arpa
	// stands for. An error is as of LookupNetIP, or errors.ErrUnsupported for other names.
	LookupPTR(ctx context.Context, name string) ([]string, error)
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
	bodies, err := s.askBeside(ctx, q)
	switch _, isDNS := errors.AsType[*net.DNSError](err); {
	case err == nil:
	case errors.Is(err, errors.ErrUnsupported):
		return errorAnswer(question, dnsmessage.RCodeNotImplemented), true
	case isNotFound(err):
		return errorAnswer(question, dnsmessage.RCodeNameError), true
	default:
		s.cfg.Log.Debug("DNS question not answered beside the tunnel", "name", q.Name, "cause", err)
		if isDNS {
			return errorAnswer(question, dnsmessage.RCodeServerFailure), true
		}
		return errorAnswer(question, dnsmessage.RCodeRefused), true // by the rules
	}
	b, err := besideAnswer(question, q, bodies)
	if err != nil {
		return errorAnswer(question, dnsmessage.RCodeServerFailure), true
	}
	return b, true
}

// askBeside asks the resolver beside the tunnel what it can tell, or returns
// errors.ErrUnsupported.
func (s *Server) askBeside(ctx context.Context, q dnsmessage.Question) (bodies []dnsmessage.ResourceBody, err error) {
	name := strings.TrimSuffix(q.Name.String(), ".")
	network := map[dnsmessage.Type]string{dnsmessage.TypeA: "ip4", dnsmessage.TypeAAAA: "ip6"}[q.Type]
	switch {
	case q.Class != dnsmessage.ClassINET:
		return nil, errors.ErrUnsupported
	case q.Type == dnsmessage.TypePTR:
		return s.askBesideForNames(ctx, name)
	case network == "":
		return nil, errors.ErrUnsupported
	}
	addrs, err := s.cfg.Beside.LookupNetIP(ctx, network, name)
	if isNotFound(err) {
		// That it has none of this family is another answer than that there is no such name.
		if _, err = s.cfg.Beside.LookupNetIP(ctx, "ip", name); err == nil {
			return nil, nil
		}
	}
	for _, a := range addrs {
		switch a = a.Unmap(); {
		case a.Is4() && q.Type == dnsmessage.TypeA:
			bodies = append(bodies, &dnsmessage.AResource{A: a.As4()})
		case a.Is6() && q.Type == dnsmessage.TypeAAAA:
			bodies = append(bodies, &dnsmessage.AAAAResource{AAAA: a.As16()})
		}
	}
	return bodies, err
}

func (s *Server) askBesideForNames(ctx context.Context, reverse string) (bodies []dnsmessage.ResourceBody, err error) {
	names, err := s.cfg.Beside.LookupPTR(ctx, reverse)
	for _, text := range names[:min(len(names), 1)] { // more may not fit into 512 bytes
		if n, err := dnsmessage.NewName(strings.TrimSuffix(text, ".") + "."); err == nil {
			bodies = append(bodies, &dnsmessage.PTRResource{PTR: n})
		}
	}
	return bodies, err
}

func isNotFound(err error) bool {
	d, ok := errors.AsType[*net.DNSError](err)
	return ok && d.IsNotFound
}

// besideAnswer makes the answer to q, which the message question asks.
func besideAnswer(question []byte, q dnsmessage.Question, bodies []dnsmessage.ResourceBody) ([]byte, error) {
	m := dnsmessage.Message{
		Header: dnsmessage.Header{
			ID: uint16(question[0])<<8 | uint16(question[1]), Response: true,
			RecursionDesired: question[2]&1 != 0, RecursionAvailable: true,
		},
		Questions: []dnsmessage.Question{q},
	}
	const most = 24 // addresses in 512 bytes with the longest of names, by compression
	h := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: besideTTL}
	for _, body := range bodies[:min(len(bodies), most)] {
		m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: body})
	}
	return m.Pack()
}

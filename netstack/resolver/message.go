package resolver

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	// maxRecords bounds how many records of one section are looked at. A TCP
	// message of 64 KiB could name 4000 addresses; nobody dials that many.
	maxRecords = 256

	maxAddrs = 64 // addresses taken from one answer
	maxChain = 16 // aliases followed within one answer

	// Times to live are kept within these: a server's zero must not make every
	// connection a question, and its week must not outlive a change.
	minTTL         = 5 * time.Second
	maxTTL         = time.Hour
	maxNegativeTTL = 5 * time.Minute
)

var (
	errMismatch  = errors.New("the message does not answer the question")
	errTruncated = errors.New("the answer was cut")
	errMalformed = errors.New("malformed DNS message")
)

// answer is what a server said about one question: addresses, or a denial in err.
type answer struct {
	addrs []netip.Addr
	err   error         // nil, errNoName or errNoRecord
	ttl   time.Duration // how long it may be cached; 0 means not at all
}

func question(name dnsmessage.Name, t dnsmessage.Type) dnsmessage.Question {
	return dnsmessage.Question{Name: name, Type: t, Class: dnsmessage.ClassINET}
}

// appendQuery appends the message that asks q.
func appendQuery(b []byte, id uint16, q dnsmessage.Question) ([]byte, error) {
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: id, RecursionDesired: true},
		Questions: []dnsmessage.Question{q},
	}
	return m.AppendPack(b)
}

// parseAnswer reads a server's message about q. An error other than a denial
// (which is in the answer) means that the message is of no use.
func parseAnswer(msg []byte, id uint16, q dnsmessage.Question) (answer, error) {
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	if err != nil {
		return answer{}, errMalformed
	}
	if h.ID != id || !h.Response || h.OpCode != 0 {
		return answer{}, errMismatch
	}
	got, err := p.Question()
	if err != nil || got.Type != q.Type || got.Class != q.Class || !sameName(got.Name, q.Name) {
		return answer{}, errMismatch
	}
	if err := p.SkipAllQuestions(); err != nil {
		return answer{}, errMalformed
	}
	if h.Truncated {
		return answer{}, errTruncated
	}
	switch h.RCode {
	case dnsmessage.RCodeSuccess:
		return parseRecords(&p, q)
	case dnsmessage.RCodeNameError:
		if err := p.SkipAllAnswers(); err != nil {
			return answer{}, errMalformed
		}
		return answer{err: errNoName, ttl: negativeTTL(&p)}, nil
	}
	return answer{}, fmt.Errorf("the server answered %s", rcodeText(h.RCode))
}

func rcodeText(c dnsmessage.RCode) string {
	switch c {
	case dnsmessage.RCodeServerFailure:
		return "that it failed (SERVFAIL)"
	case dnsmessage.RCodeRefused:
		return "that it refuses to (REFUSED)"
	}
	return "with " + c.String()
}

func sameName(a, b dnsmessage.Name) bool {
	return strings.EqualFold(string(a.Data[:a.Length]), string(b.Data[:b.Length]))
}

// record is an alias or an address from the answer section.
type record struct {
	owner  dnsmessage.Name
	target dnsmessage.Name // of an alias
	addr   netip.Addr      // invalid for an alias
	ttl    uint32
}

// parseRecords reads the answer section and follows aliases from q to addresses.
func parseRecords(p *dnsmessage.Parser, q dnsmessage.Question) (answer, error) {
	records, err := readRecords(p, q.Type)
	if err != nil {
		return answer{}, err
	}
	name, ttl := q.Name, uint32(maxTTL/time.Second)
	for range maxChain {
		addrs, rest := addressesOf(records, name)
		if len(addrs) > 0 {
			return answer{addrs: addrs, ttl: clampTTL(min(ttl, rest), maxTTL)}, nil
		}
		i := slices.IndexFunc(records, func(r record) bool {
			return !r.addr.IsValid() && sameName(r.owner, name)
		})
		if i < 0 {
			return answer{err: errNoRecord, ttl: negativeTTL(p)}, nil
		}
		name, ttl = records[i].target, min(ttl, records[i].ttl)
	}
	return answer{}, fmt.Errorf("%w: more than %d aliases", errMalformed, maxChain)
}

// readRecords returns the aliases and the addresses of type t. It leaves p at
// the authority section.
func readRecords(p *dnsmessage.Parser, t dnsmessage.Type) ([]record, error) {
	var records []record
	for range maxRecords {
		h, err := p.AnswerHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			return records, nil
		}
		if err != nil {
			return nil, errMalformed
		}
		r := record{owner: h.Name, ttl: h.TTL}
		wanted := h.Class == dnsmessage.ClassINET && (h.Type == t || h.Type == dnsmessage.TypeCNAME)
		if !wanted {
			err = p.SkipAnswer()
		} else {
			err = r.read(p, h.Type)
		}
		if err != nil {
			return nil, errMalformed
		}
		if wanted {
			records = append(records, r)
		}
	}
	if err := p.SkipAllAnswers(); err != nil {
		return nil, errMalformed
	}
	return records, nil
}

func (r *record) read(p *dnsmessage.Parser, t dnsmessage.Type) error {
	switch t {
	case dnsmessage.TypeA:
		a, err := p.AResource()
		r.addr = netip.AddrFrom4(a.A)
		return err
	case dnsmessage.TypeAAAA:
		a, err := p.AAAAResource()
		r.addr = netip.AddrFrom16(a.AAAA)
		return err
	default:
		c, err := p.CNAMEResource()
		r.target = c.CNAME
		return err
	}
}

// addressesOf returns the addresses that records give name, and the shortest of
// their times to live.
func addressesOf(records []record, name dnsmessage.Name) ([]netip.Addr, uint32) {
	var addrs []netip.Addr
	ttl := ^uint32(0)
	for _, r := range records {
		if r.addr.IsValid() && sameName(r.owner, name) && len(addrs) < maxAddrs && !slices.Contains(addrs, r.addr) {
			addrs = append(addrs, r.addr)
			ttl = min(ttl, r.ttl)
		}
	}
	return addrs, ttl
}

// negativeTTL returns how long a denial may be cached (RFC 2308 section 5): as
// the SOA in the authority section says, and not at all without one.
func negativeTTL(p *dnsmessage.Parser) time.Duration {
	for range maxRecords {
		h, err := p.AuthorityHeader()
		if err != nil {
			return 0
		}
		if h.Type != dnsmessage.TypeSOA {
			if p.SkipAuthority() != nil {
				return 0
			}
			continue
		}
		soa, err := p.SOAResource()
		if err != nil {
			return 0
		}
		return clampTTL(min(h.TTL, soa.MinTTL), maxNegativeTTL)
	}
	return 0
}

func clampTTL(seconds uint32, most time.Duration) time.Duration {
	return min(max(time.Duration(seconds)*time.Second, minTTL), most)
}

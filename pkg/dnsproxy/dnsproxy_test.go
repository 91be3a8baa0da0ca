package dnsproxy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// tunnel is a network in memory with name servers, each of which answers as it likes.
type tunnel struct {
	answer func(network, server string, m dnsmessage.Message) []dnsmessage.Message
	run    sync.WaitGroup

	mu      sync.Mutex // guards what follows
	servers []netip.Addr
	own     []netip.Addr
	asked   []string // "udp 10.0.0.1 TXT name."
}

func (n *tunnel) NameServers() (servers, own []netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.servers, n.own
}

// lease replaces the name servers and our own addresses.
func (n *tunnel) lease(servers []netip.Addr, own ...netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.servers, n.own = servers, own
}

var ours = netip.MustParseAddr("10.0.0.9")

func (n *tunnel) DialContext(_ context.Context, network, address string) (net.Conn, error) {
	near, far := net.Pipe()
	server, _, _ := strings.Cut(address, ":")
	n.run.Go(func() {
		defer far.Close()
		n.serve(far, network, server)
		io.Copy(io.Discard, far)
	})
	return near, nil
}

func (n *tunnel) serve(c net.Conn, network, server string) {
	b := make([]byte, maxMessage)
	var err error
	if network == "tcp" {
		b, err = readMessage(c)
	} else {
		var k int
		k, err = c.Read(b)
		b = b[:k]
	}
	var m dnsmessage.Message
	if err != nil || m.Unpack(b) != nil {
		return
	}
	q := m.Questions[0]
	n.mu.Lock()
	n.asked = append(n.asked, fmt.Sprintf("%s %s %s %s", network, server, q.Type.String()[4:], q.Name))
	n.mu.Unlock()
	for _, a := range n.answer(network, server, m) {
		out, err := a.Pack()
		if err != nil {
			panic(err)
		}
		if network == "tcp" {
			out = append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...)
		}
		if _, err := c.Write(out); err != nil {
			return
		}
	}
}

func (n *tunnel) questions() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := n.asked
	n.asked = nil
	return out
}

// txt answers with some text.
func txt(m dnsmessage.Message, texts ...string) dnsmessage.Message {
	m.Response = true
	for _, s := range texts {
		m.Answers = append(m.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Type: dnsmessage.TypeTXT, Class: dnsmessage.ClassINET},
			Body:   &dnsmessage.TXTResource{TXT: []string{s}}})
	}
	return m
}

func one(m dnsmessage.Message) []dnsmessage.Message { return []dnsmessage.Message{m} }

// start serves a tunnel's names until the test ends.
func start(t *testing.T, n *tunnel, cfg Config) *Server {
	t.Helper()
	if n.servers == nil {
		n.servers = []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")}
	}
	n.own = append(n.own, ours)
	cfg.Upstream, cfg.Listen = n, netip.MustParseAddrPort("127.0.0.1:0")
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(t.Context()) }()
	t.Cleanup(func() {
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Serve: %v", err)
		}
		n.run.Wait()
	})
	return s
}

// query makes a question with EDNS in it.
func query(id uint16, name string, kind dnsmessage.Type) []byte {
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: id, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}},
		Additionals: []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName("."), Type: dnsmessage.TypeOPT, Class: 4096},
			Body: &dnsmessage.OPTResource{}}},
	}
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return b
}

// resolve sends a message and returns the answer.
func resolve(t *testing.T, s *Server, network string, msg []byte) dnsmessage.Message {
	t.Helper()
	c, err := net.Dial(network, s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if network == "tcp" {
		msg = append(binary.BigEndian.AppendUint16(nil, uint16(len(msg))), msg...)
	}
	if _, err := c.Write(msg); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, maxMessage)
	if network == "tcp" {
		b, err = readMessage(c)
	} else {
		var n int
		n, err = c.Read(b)
		b = b[:n]
	}
	if err != nil {
		t.Fatal(err)
	}
	var m dnsmessage.Message
	if err := m.Unpack(b); err != nil {
		t.Fatal(err)
	}
	return m
}

func text(m dnsmessage.Message) string {
	var all []string
	for _, a := range m.Answers {
		all = append(all, a.Body.(*dnsmessage.TXTResource).TXT...)
	}
	return strings.Join(all, " ")
}

func TestAnyTypeGoesThroughAsItIs(t *testing.T) {
	n := &tunnel{answer: func(_, _ string, m dnsmessage.Message) []dnsmessage.Message {
		if len(m.Additionals) != 1 || m.Additionals[0].Header.Class != 4096 {
			return one(txt(m, "the client's EDNS is lost"))
		}
		forged := txt(m, "forged")
		forged.ID++
		return []dnsmessage.Message{forged, txt(m, "true", m.Questions[0].Type.String())}
	}}
	s := start(t, n, Config{})
	for _, kind := range []dnsmessage.Type{dnsmessage.TypeTXT, dnsmessage.TypeA, dnsmessage.TypeSRV, 64 /* SVCB */} {
		for _, network := range []string{"udp", "tcp"} {
			m := resolve(t, s, network, query(7, "Name.corp.", kind))
			if got, want := text(m), "true "+kind.String(); m.ID != 7 || got != want || m.Questions[0].Name.String() != "Name.corp." {
				t.Errorf("%s %v: got %q under %d, want %q under 7", network, kind, got, m.ID, want)
			}
		}
	}
	if st := s.Stats(); st.OverUDP != 4 || st.OverTCP != 4 || st.Answered != 8 || st.Refused+st.Failed+st.Dropped != 0 {
		t.Errorf("counters: %+v", st)
	}
}

func TestACutAnswerIsWholeOverTCP(t *testing.T) {
	n := &tunnel{answer: func(network, _ string, m dnsmessage.Message) []dnsmessage.Message {
		if network == "udp" {
			m = txt(m)
			m.Truncated = true
			return one(m)
		}
		return one(txt(m, strings.Repeat("x", 200), strings.Repeat("y", 200)))
	}}
	s := start(t, n, Config{})
	if m := resolve(t, s, "udp", query(1, "long.", dnsmessage.TypeTXT)); !m.Truncated {
		t.Errorf("over UDP: got %+v, want it cut", m.Header)
	}
	if m := resolve(t, s, "tcp", query(1, "long.", dnsmessage.TypeTXT)); m.Truncated || len(text(m)) != 401 {
		t.Errorf("over TCP: got %+v with %d characters", m.Header, len(text(m)))
	}
	want := []string{"udp 10.0.0.1 TXT long.", "udp 10.0.0.1 TXT long.", "tcp 10.0.0.1 TXT long."}
	if got := n.questions(); !slices.Equal(got, want) {
		t.Errorf("asked %q, want %q", got, want)
	}
}

func TestTheNextServerIsAskedWhereOneCannotTell(t *testing.T) {
	n := &tunnel{answer: func(_, server string, m dnsmessage.Message) []dnsmessage.Message {
		if server == "10.0.0.1" {
			m.Response, m.RCode = true, dnsmessage.RCodeServerFailure
			return one(m)
		}
		return one(txt(m, "second"))
	}}
	s := start(t, n, Config{})
	if got := text(resolve(t, s, "udp", query(1, "name.", dnsmessage.TypeTXT))); got != "second" {
		t.Errorf("got %q, want the second server's answer", got)
	}
	n.lease(n.servers[:1], ours)
	if m := resolve(t, s, "udp", query(1, "other.", dnsmessage.TypeTXT)); m.RCode != dnsmessage.RCodeServerFailure {
		t.Errorf("got %v, want what the only server said", m.RCode)
	}
}

func TestWhatCannotBeAnsweredIsSaid(t *testing.T) {
	silent := func(_, _ string, m dnsmessage.Message) []dnsmessage.Message { return nil }
	n := &tunnel{answer: silent}
	s := start(t, n, Config{Timeout: 50 * time.Millisecond})
	servers := n.servers
	q := query(9, "name.", dnsmessage.TypeA)
	two := slices.Clone(q)
	two[5] = 2
	update := slices.Clone(q)
	update[2] |= 5 << 3
	for _, row := range []struct {
		name    string
		msg     []byte
		servers []netip.Addr
		want    dnsmessage.RCode
	}{
		{"a server that is silent", q, servers, dnsmessage.RCodeServerFailure},
		{"no server", q, []netip.Addr{}, dnsmessage.RCodeRefused},
		{"ourselves as the server", q, []netip.Addr{netip.MustParseAddr("10.0.0.9")}, dnsmessage.RCodeRefused},
		{"this machine as the server", q, []netip.Addr{netip.MustParseAddr("127.0.0.1")}, dnsmessage.RCodeRefused},
		{"a zone transfer", query(9, "corp.", typeAXFR), servers, dnsmessage.RCodeRefused},
		{"two questions", two, servers, dnsmessage.RCodeFormatError},
		{"an update", update, servers, dnsmessage.RCodeNotImplemented},
	} {
		n.lease(row.servers, ours)
		for _, network := range []string{"udp", "tcp"} {
			if m := resolve(t, s, network, row.msg); m.RCode != row.want || m.ID != 9 || !m.Response {
				t.Errorf("%s, %s: got %+v, want %v", row.name, network, m.Header, row.want)
			}
		}
	}
	n.lease(servers)
	if m := resolve(t, s, "udp", q); m.RCode != dnsmessage.RCodeServerFailure {
		t.Errorf("no tunnel: got %v, want a failure", m.RCode)
	}
	c, err := net.Dial("udp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	answer := slices.Clone(q)
	answer[2] |= 0x80
	for _, msg := range [][]byte{{}, {1}, q[:11], answer} { // an answer to those could breed
		c.Write(msg)
	}
	for end := time.Now().Add(20 * time.Second); s.Stats().Dropped < 4; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("counters: %+v", s.Stats())
		}
	}
}

// A name server that asks us again, as one does whose own forwarder is a port of ours in
// the VPN, gets nowhere, and takes no more than one exchange for it.
func TestALoopEnds(t *testing.T) {
	var rounds atomic.Int32
	var served atomic.Pointer[Server]
	n := &tunnel{servers: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}
	n.answer = func(_, _ string, m dnsmessage.Message) []dnsmessage.Message {
		rounds.Add(1)
		b, err := m.Pack()
		if err != nil {
			panic(err)
		}
		c, err := net.Dial("udp", served.Load().Addr().String())
		if err != nil {
			return nil
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(time.Second)) // the server may have ended by then
		c.Write(b)
		k, err := c.Read(b[:cap(b)])
		if err != nil || m.Unpack(b[:k]) != nil {
			return nil
		}
		return one(m)
	}
	s := start(t, n, Config{Timeout: 200 * time.Millisecond})
	served.Store(s)
	if m := resolve(t, s, "udp", query(1, "loop.", dnsmessage.TypeA)); m.RCode != dnsmessage.RCodeServerFailure {
		t.Errorf("got %v, want a failure", m.RCode)
	}
	if got := rounds.Load(); got != 1 {
		t.Errorf("the question went around %d times, want once", got)
	}
}

func TestEqualQuestionsShareAnExchangeUpToALimit(t *testing.T) {
	release := make(chan struct{})
	n := &tunnel{answer: func(_, _ string, m dnsmessage.Message) []dnsmessage.Message {
		<-release
		return one(txt(m, "answer"))
	}}
	s := start(t, n, Config{})
	type outcome struct {
		id   uint16
		code dnsmessage.RCode
		text string
	}
	results := make(chan outcome, maxWaiting+10)
	for i := range maxWaiting + 10 {
		go func() {
			m := resolve(t, s, "udp", query(uint16(i), "same.", dnsmessage.TypeTXT))
			results <- outcome{m.ID, m.RCode, text(m)}
		}()
	}
	for range 10 {
		if r := <-results; r.code != dnsmessage.RCodeRefused {
			t.Errorf("got %+v, want those beyond the limit refused", r)
		}
	}
	close(release)
	seen := map[uint16]bool{}
	for range maxWaiting {
		r := <-results
		if r.text != "answer" || seen[r.id] {
			t.Errorf("got %+v", r)
		}
		seen[r.id] = true
	}
	if got := n.questions(); len(got) != 1 {
		t.Errorf("asked %d times, want once", len(got))
	}
}

func TestQuestionsAreBounded(t *testing.T) {
	release := make(chan struct{})
	n := &tunnel{answer: func(_, _ string, m dnsmessage.Message) []dnsmessage.Message {
		<-release
		return one(txt(m, "answer"))
	}}
	s := start(t, n, Config{MaxQuestions: 2})
	c, err := net.Dial("udp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i := range 5 {
		c.Write(query(1, fmt.Sprintf("n%d.", i), dnsmessage.TypeTXT))
	}
	for end := time.Now().Add(20 * time.Second); s.Stats().Dropped < 3; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("counters: %+v", s.Stats())
		}
	}
	close(release)
	c.SetDeadline(time.Now().Add(20 * time.Second))
	for range 2 {
		if _, err := c.Read(make([]byte, 512)); err != nil {
			t.Fatal(err)
		}
	}
}

func FuzzMessages(f *testing.F) {
	q := query(1, "name.corp.", dnsmessage.TypeA)
	f.Add(q, q)
	f.Add(errorAnswer(q, dnsmessage.RCodeRefused), q)
	f.Add([]byte{0, 1, 2}, q)
	f.Fuzz(func(t *testing.T, a, b []byte) {
		what, code := judge(a)
		if what == refuse {
			var p dnsmessage.Parser
			h, err := p.Start(errorAnswer(a, code))
			if err != nil || !h.Response || h.RCode != code || h.ID != binary.BigEndian.Uint16(a) {
				t.Errorf("%x: refused as %+v, %v", a, h, err)
			}
		}
		if what, _ := judge(b); what == ask && answers(a, b, 1) {
			truncated(a)
			lacking(a)
		}
	})
}

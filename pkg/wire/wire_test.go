package wire

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"softether-go/pkg/pack"
)

func TestPasswordHashes(t *testing.T) {
	for in, want := range map[string]string{
		"":    "f96cea198ad1dd5617ac084a3d92c6107708c0ef",
		"abc": "0164b8a914cd2a5e74c4f7ff082c4d97f1edf880",
	} {
		if got := hexOf(sha0([]byte(in))); got != want {
			t.Errorf("SHA-0(%q) = %s, want %s", in, got, want)
		}
	}
	h := PasswordHash("Bob", "secret")
	if got, want := base64.StdEncoding.EncodeToString(h[:]), "AFNL2tupeMRQM0to84WItMnMun8="; got != want {
		t.Errorf("hash of Bob's password: got %s, want %s", got, want)
	}
	if h != PasswordHash("bOB", "secret") {
		t.Error("the case of a user name matters")
	}
	random, _ := hex.DecodeString("000102030405060708090a0b0c0d0e0f10111213")
	if got, want := hexOf(AnswerChallenge(h, random)), "0a40a16f029c80e8eb2a3b2b93cae27b0c6a81c3"; got != want {
		t.Errorf("answer: got %s, want %s", got, want)
	}
}

func hexOf(b [HashLen]byte) string { return hex.EncodeToString(b[:]) }

func reply(head, body string) string {
	return "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n" + head + "\r\n" + body
}

func TestReadReply(t *testing.T) {
	p := &pack.Pack{}
	p.SetInt("error", 9)
	var good bytes.Buffer
	if err := WriteReply(&good, p); err != nil {
		t.Fatal(err)
	}
	var fillers bytes.Buffer
	for range 3 {
		if err := WriteReply(&fillers, Filler()); err != nil {
			t.Fatal(err)
		}
	}
	for _, row := range []struct {
		name, in string
		wantErr  error  // nil: any error if wantText is set
		wantText string // in the error
	}{
		{"a pack", good.String(), nil, ""},
		{"fillers before a pack", fillers.String() + good.String(), nil, ""},
		{"LF line ends", strings.ReplaceAll(good.String()[:strings.Index(good.String(), "\r\n\r\n")], "\r\n", "\n") + "\n\n" + good.String()[strings.Index(good.String(), "\r\n\r\n")+4:], nil, ""},
		{"nothing", "", io.EOF, "EOF"},
		{"half a line", "HTTP/1.1 2", io.ErrUnexpectedEOF, "EOF"},
		{"half a header", "HTTP/1.1 200 OK\r\nContent-", io.ErrUnexpectedEOF, "EOF"},
		{"a page", "HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno\n", ErrNotVPN, "403"},
		{"another protocol", "SSH-2.0-OpenSSH_9.2\r\n\r\n", ErrNotVPN, "SSH"},
		{"a page of a web server", "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 1\r\n\r\nx", ErrNotVPN, "text/html"},
		{"no length", reply("", ""), ErrNotVPN, "content length"},
		{"a negative length", reply("Content-Length: -1\r\n", ""), ErrNotVPN, "content length"},
		{"length 0", reply("Content-Length: 0\r\n", ""), ErrNotVPN, "content length"},
		{"a length of gigabytes", reply("Content-Length: 4294967296\r\n", ""), ErrNotVPN, "content length"},
		{"a short body", reply("Content-Length: 1000\r\n", "abc"), io.ErrUnexpectedEOF, "EOF"},
		{"a body that is no pack", reply("Content-Length: 3\r\n", "abc"), nil, "pack"},
		{"an endless line", "HTTP/1.1 200 " + strings.Repeat("x", 1<<20), ErrNotVPN, "longer than 4096"},
		{"endless headers", "HTTP/1.1 200 OK\r\n" + strings.Repeat("A: b\r\n", 100000), ErrNotVPN, "header lines"},
		{"a header without colon", "HTTP/1.1 200 OK\r\nnonsense\r\n\r\n", ErrNotVPN, "header line"},
		{"endless fillers", strings.Repeat(fillers.String(), 1000), nil, "without end"},
	} {
		t.Run(row.name, func(t *testing.T) {
			got, err := ReadReply(bufio.NewReader(strings.NewReader(row.in)))
			if row.wantText == "" {
				if err != nil || got.Int("error") != 9 {
					t.Fatalf("got %v, %v; want the pack", got, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), row.wantText) || row.wantErr != nil && !errors.Is(err, row.wantErr) {
				t.Errorf("error %v, want %v with %q", err, row.wantErr, row.wantText)
			}
		})
	}
}

func TestReadReplyLeavesWhatFollows(t *testing.T) {
	var b bytes.Buffer
	if err := WriteReply(&b, Refusal(0)); err != nil {
		t.Fatal(err)
	}
	b.WriteString("data phase")
	r := bufio.NewReader(&b)
	if _, err := ReadReply(r); err != nil {
		t.Fatal(err)
	}
	rest, _ := io.ReadAll(r)
	if got, want := string(rest), "data phase"; got != want {
		t.Errorf("left %q, want %q", got, want)
	}
}

func TestRequestsAreReadAsWritten(t *testing.T) {
	var b bytes.Buffer
	login := Login{Hub: "H", User: "U", Auth: PlainPassword, Plain: "p", MaxConnection: 1, Bridge: true,
		Client: ClientInfo{Product: "x", Build: 9999, Port: 443, UniqueID: [16]byte{1, 2}, Local: netip.MustParseAddr("192.0.2.1")}}
	if err := errors.Join(WriteSignature(&b, "host:443"), WriteRequest(&b, "host:443", login.Pack())); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(&b)
	q, err := ReadRequest(r)
	if err != nil || q.Target != SignaturePath || string(q.Body) != Signature {
		t.Fatalf("signature read as %+v, %v", q, err)
	}
	if q, err = ReadRequest(r); err != nil {
		t.Fatal(err)
	}
	p, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseLogin(p)
	if err != nil {
		t.Fatal(err)
	}
	want := Login{Hub: "H", User: "U", Auth: PlainPassword, Plain: "p", MaxConnection: 1, Bridge: true,
		Client: ClientInfo{Product: "x", Build: 9999, UniqueID: [16]byte{1, 2}}}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("login (-want +got):\n%s", diff)
	}
	if p.Int("use_encrypt") != 1 {
		t.Error("the login does not ask for encryption: the session would run in clear")
	}
	if got, want := p.Int("ServerPort2"), uint32(0xbb010000); got != want {
		t.Errorf("port in the node information: got %#x, want %#x (swapped)", got, want)
	}
}

func validWelcome() Welcome {
	return Welcome{SessionName: "SID-U-1", ConnectionName: "CID-1", SessionKey: bytes.Repeat([]byte{7}, HashLen),
		MaxConnection: 1, Encrypt: true, Timeout: 20 * time.Second, Message: "hello",
		Policy: Policy{{"Access", 1}, {"DHCPForce", 1}, {"MaxUpload", 1000000}}}
}

func TestWelcomeIsReadAsWritten(t *testing.T) {
	want := validWelcome()
	got, err := ParseWelcome(want.Pack())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("welcome (-want +got):\n%s", diff)
	}
	if got, want := got.Policy.String(), "DHCPForce MaxUpload=1000000"; got != want {
		t.Errorf("policy reads %q, want %q", got, want)
	}
	if got.Policy.Value("dhcpforce") != 1 || got.Policy.Value("NoServer") != 0 {
		t.Error("Policy.Value does not find what is there, or finds what is not")
	}
}

func TestWelcomeIsNotBelievedBlindly(t *testing.T) {
	change := func(f func(*pack.Pack)) *pack.Pack {
		p := validWelcome().Pack()
		f(p)
		return p
	}
	for _, row := range []struct {
		name    string
		p       *pack.Pack
		wantErr string
	}{
		{"no session name", change(func(p *pack.Pack) { p.SetStr("session_name", "") }), "names no session"},
		{"no session key", change(func(p *pack.Pack) { p.SetInt("session_key", 1) }), "no session key"},
		{"a short session key", change(func(p *pack.Pack) { p.SetData("session_key", []byte{1}) }), "no session key"},
		{"a refusal", Refusal(CodeAuthFailed), "code 9"},
		{"an unknown refusal", Refusal(4711), "4711"},
		{"a redirect", change(func(p *pack.Pack) { p.SetInt("Redirect", 1); p.SetIP("Ip", netip.MustParseAddr("192.0.2.9")) }), "192.0.2.9"},
	} {
		_, err := ParseWelcome(row.p)
		if err == nil || !strings.Contains(err.Error(), row.wantErr) {
			t.Errorf("%s: error %v, want one with %q", row.name, err, row.wantErr)
		}
	}
	for ms, want := range map[uint32]time.Duration{0: 20 * time.Second, 1: 5 * time.Second, 10000: 10 * time.Second, 1 << 31: time.Minute} {
		w, err := ParseWelcome(change(func(p *pack.Pack) { p.SetInt("timeout", ms) }))
		if err != nil || w.Timeout != want {
			t.Errorf("time-out of %d ms: got %v, %v; want %v", ms, w.Timeout, err, want)
		}
	}
	w, _ := ParseWelcome(change(func(p *pack.Pack) { p.SetInt("max_connection", 1000); p.SetData("Msg", []byte{0xff}) }))
	if w.MaxConnection != 32 || w.Message != "\uFFFD" {
		t.Errorf("got %d connections and message %q", w.MaxConnection, w.Message)
	}
}

func TestKeysOfFramesBesideTheStreamAreWhole(t *testing.T) {
	for _, row := range []struct {
		version    uint32
		send, recv int
		enabled    bool
		want       bool
	}{
		{0, 20, 20, true, true},
		{1, 20, 20, true, true},
		{2, 32, 32, true, true},
		{2, 20, 20, true, false},
		{0, 32, 32, true, false},
		{0, 20, 19, true, false},
		{0, 0, 0, true, false},
		{0, 20, 20, false, false},
	} {
		p := validWelcome().Pack()
		p.SetBool("enable_bulk_on_rudp", row.enabled)
		p.SetBool("enable_hmac_on_bulk_of_rudp", true)
		p.SetInt("rudp_bulk_version", row.version)
		p.SetData("bulk_on_rudp_send_key", bytes.Repeat([]byte{1}, row.send))
		p.SetData("bulk_on_rudp_recv_key", bytes.Repeat([]byte{2}, row.recv))
		w, err := ParseWelcome(p)
		if err != nil || (w.Bulk != nil) != row.want {
			t.Errorf("%+v: %+v, %v", row, w.Bulk, err)
		}
		if row.want && (w.Bulk.Send[0] != 1 || w.Bulk.Recv[0] != 2 || !w.Bulk.HMAC) {
			t.Errorf("%+v: the keys are not the ones: %+v", row, w.Bulk)
		}
	}
}

func TestALoginOverRUDPAsksForItsComforts(t *testing.T) {
	p := Login{Hub: "H", User: "U", OverRUDP: true}.Pack()
	if !p.Bool("support_udp_recovery") || !p.Bool("support_bulk_on_rudp") || !p.Bool("support_hmac_on_bulk_of_rudp") || p.Int("rudp_bulk_max_version") != 2 {
		t.Error("it does not ask for a session that comes back, or for frames beside the stream")
	}
	if p := (Login{Hub: "H", User: "U", OverRUDP: true, Compress: true}).Pack(); p.Bool("support_bulk_on_rudp") || !p.Bool("support_udp_recovery") {
		t.Error("compressed frames are to go beside the stream, where they have another form")
	}
	if p := (Login{Hub: "H", User: "U"}).Pack(); p.Bool("support_udp_recovery") {
		t.Error("a login over TCP asks for what only R-UDP has")
	}
}

func validRedirect() Redirect {
	return Redirect{Member: netip.MustParseAddr("192.0.2.9"), Ports: []uint16{443, 5555},
		Ticket: bytes.Repeat([]byte{3}, HashLen), Cert: []byte{0x30, 1}, Message: "hello"}
}

func TestRedirectIsReadAsWritten(t *testing.T) {
	want := validRedirect()
	_, err := ParseWelcome(want.Pack())
	var got Redirect
	if !errors.As(err, &got) {
		t.Fatalf("got %v", err)
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("redirect (-want +got):\n%s", diff)
	}
}

func TestRedirectIsNotBelievedBlindly(t *testing.T) {
	for name, row := range map[string]struct {
		change func(*Redirect)
		want   string
	}{
		"no member":           {func(r *Redirect) { r.Member = netip.Addr{} }, "without an address"},
		"no port":             {func(r *Redirect) { r.Ports = nil }, "without a port"},
		"the port 0":          {func(r *Redirect) { r.Ports = []uint16{0} }, "without a port"},
		"no ticket":           {func(r *Redirect) { r.Ticket = nil }, "without a ticket"},
		"a ticket too short":  {func(r *Redirect) { r.Ticket = r.Ticket[1:] }, "without a ticket"},
		"no certificate":      {func(r *Redirect) { r.Cert = nil }, "impostor"},
		"all zero as address": {func(r *Redirect) { r.Member = netip.IPv6Unspecified() }, "without an address"},
	} {
		r := validRedirect()
		row.change(&r)
		_, err := ParseWelcome(r.Pack())
		if err == nil || errors.As(err, new(Redirect)) || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v, want one with %q", name, err, row.want)
		}
	}
}

func TestJoinIsAnsweredByADirection(t *testing.T) {
	p := Join{SessionKey: bytes.Repeat([]byte{7}, HashLen), Client: ClientInfo{Product: "x", Build: 9999}}.Pack()
	if p.Str("method") != MethodAdditional || len(p.Data("session_key")) != HashLen || p.Int("client_build") != 9999 {
		t.Errorf("request %+v", p)
	}
	for _, want := range []Direction{BothWays, InboundOnly, OutboundOnly} {
		if got, err := ParseJoined(Joined(want)); err != nil || got != want {
			t.Errorf("direction %d: got %d, %v", want, got, err)
		}
	}
	if _, err := ParseJoined(Joined(3)); err == nil || !strings.Contains(err.Error(), "direction 3") {
		t.Errorf("an impossible direction: %v", err)
	}
	if _, err := ParseJoined(Refusal(CodeSessionTimeout)); !errors.Is(err, CodeSessionTimeout) {
		t.Errorf("a refusal: %v", err)
	}
}

func TestLoginAsksForWhatItIsTold(t *testing.T) {
	want := Login{Hub: "H", User: "U", Auth: ByTicket, Ticket: []byte{1}, MaxConnection: 8,
		Cleartext: true, Compress: true, HalfConnection: true, QoS: true, Monitor: true}
	got, err := ParseLogin(want.Pack())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("login (-want +got):\n%s", diff)
	}
	if p := (Login{Hub: "H", User: "U"}).Pack(); p.Int("use_encrypt") != 1 {
		t.Error("a login that says nothing of it would give up encryption")
	}
}

func TestHelloIsNotBelievedBlindly(t *testing.T) {
	good := Hello{Product: "x", Version: 501, Build: 9674, Random: make([]byte, HashLen)}
	got, err := ParseHello(good.Pack())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(good, got); diff != "" {
		t.Errorf("hello (-want +got):\n%s", diff)
	}
	for name, h := range map[string]Hello{
		"no name":           {Random: make([]byte, HashLen)},
		"no challenge":      {Product: "x"},
		"a short challenge": {Product: "x", Random: make([]byte, 19)},
	} {
		if _, err := ParseHello(h.Pack()); !errors.Is(err, ErrNotVPN) {
			t.Errorf("%s: error %v, want ErrNotVPN", name, err)
		}
	}
	if _, err := ParseHello(Refusal(CodeHubStopping)); !errors.Is(err, CodeHubStopping) {
		t.Errorf("a refusal in hello: %v", err)
	}
}

func TestEveryCodeIsASentenceWithAdvice(t *testing.T) {
	for c, info := range codes {
		if info.advice < Retry || info.advice > Never || len(info.text) < 10 || strings.HasSuffix(info.text, ".") {
			t.Errorf("code %d: advice %d, text %q", c, info.advice, info.text)
		}
	}
	for c, want := range map[Code]Advice{CodeAuthFailed: Never, CodeHubNotFound: Never, CodeAccessDenied: Never, CodeHubStopping: Wait, CodeTooManySessions: Wait, CodeSessionTimeout: Retry, 9999: Retry} {
		if got := c.Advice(); got != want {
			t.Errorf("advice for %d: got %d, want %d", c, got, want)
		}
	}
}

func FuzzNegotiation(f *testing.F) {
	var b bytes.Buffer
	WriteReply(&b, validWelcome().Pack())
	f.Add(b.Bytes())
	b.Reset()
	WriteReply(&b, Hello{Product: "x", Random: make([]byte, HashLen)}.Pack())
	f.Add(b.Bytes())
	b.Reset()
	WriteRequest(&b, "h", Login{Hub: "H", User: "U"}.Pack())
	f.Add(b.Bytes())
	b.Reset()
	WriteReply(&b, validRedirect().Pack())
	f.Add(b.Bytes())
	b.Reset()
	WriteReply(&b, Joined(OutboundOnly))
	f.Add(b.Bytes())
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: 4\r\n\r\n\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		if p, err := ReadReply(bufio.NewReader(bytes.NewReader(in))); err == nil {
			ParseHello(p)
			if w, err := ParseWelcome(p); err == nil && (w.Timeout < minTimeout || w.Timeout > maxTimeout || len(w.SessionKey) != HashLen) {
				t.Errorf("accepted %+v", w)
			}
			var r Redirect
			if _, err := ParseWelcome(p); errors.As(err, &r) && (!r.Member.IsValid() || len(r.Ports) == 0 || len(r.Ticket) != HashLen || len(r.Cert) == 0) {
				t.Errorf("accepted %+v", r)
			}
			if d, err := ParseJoined(p); err == nil && d > OutboundOnly {
				t.Errorf("accepted direction %d", d)
			}
		}
		if q, err := ReadRequest(bufio.NewReader(bytes.NewReader(in))); err == nil {
			if p, err := q.Pack(); err == nil {
				ParseLogin(p)
			}
		}
	})
}

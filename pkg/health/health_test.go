package health

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"softether-go/pkg/frame"
	"softether-go/pkg/frame/frametest"
	"softether-go/pkg/inet"
	"softether-go/pkg/leaktest"
	"softether-go/pkg/netcfg"
)

func TestMain(m *testing.M) { os.Exit(leaktest.Run(m)) }

var (
	ownMAC     = net.HardwareAddr{0x5e, 0, 0x53, 0, 0, 1}
	gatewayMAC = net.HardwareAddr{0x5e, 0, 0x53, 0, 0, 2}
	own        = netip.MustParseAddr("10.0.0.5")
	gateway    = netip.MustParseAddr("10.0.0.1")
	address    = netcfg.Config{Address: netip.PrefixFrom(own, 24), Gateway: gateway, DNS: netcfg.DNS{Servers: []netip.Addr{gateway}}}
)

type applied struct{ netcfg.Config }

func (a *applied) Apply(_ context.Context, c netcfg.Config) error {
	a.Config = c
	return nil
}

// A site is what is behind the tunnel: a gateway that knows a name and forwards pings.
type site struct {
	m        *Monitor
	mute     atomic.Bool
	rcode    byte
	asked    int // questions that came
	endpoint frametest.Pipe
	stop     func()
}

func newSite(t *testing.T, target Target) *site {
	t.Helper()
	return newSiteAt(t, target, address)
}

func newSiteAt(t *testing.T, target Target, address netcfg.Config) *site {
	t.Helper()
	s := &site{}
	s.m = New(Config{Endpoint: &s.endpoint, Configurer: &applied{}, MAC: ownMAC, Target: target})
	if err := s.m.Apply(t.Context(), address); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.m.Run(ctx, frame.WriterFunc(s.hear))
	}()
	synctest.Wait()
	s.stop = func() {
		cancel()
		<-ended
	}
	t.Cleanup(s.stop)
	s.m.Enter(Up)
	return s
}

// hear answers a question, among frames of no interest.
func (s *site) hear(frames [][]byte) error {
	for _, f := range frames {
		s.asked++
		if answer := s.answer(f); answer != nil && !s.mute.Load() {
			noise := frametest.Frame(ownMAC, gatewayMAC, frame.TypeIPv4, []byte{0x45, 0})
			if err := s.m.WriteFrames([][]byte{noise, answer, noise}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *site) answer(f []byte) []byte {
	p := bytes.Clone(frame.Payload(f))
	switch frame.EtherType(f) {
	case frame.TypeARP:
		if addr := netip.AddrFrom4([4]byte(p[24:28])); addr != gateway {
			return nil
		}
		copy(p[18:], p[8:18])   // target: who asked
		copy(p[8:], gatewayMAC) // sender
		b := gateway.As4()
		copy(p[14:], b[:])
		p[7] = 2
		return frametest.Frame(ownMAC, gatewayMAC, frame.TypeARP, p)
	case frame.TypeIPv4:
		if inet.Checksum(p[:20]) != 0 {
			return nil
		}
		src, dst := bytes.Clone(p[12:16]), bytes.Clone(p[16:20])
		copy(p[12:], dst)
		copy(p[16:], src)
		switch body := p[20:]; p[9] {
		case icmp.proto:
			if inet.Checksum(body) != 0 {
				return nil
			}
			body[0] = 0
		case inet.ProtoUDP:
			if !inet.Summed(body, p[12:20], inet.ProtoUDP) {
				return nil
			}
			copy(body[2:], body[:2])
			binary.BigEndian.PutUint16(body, 53)
			body[10] |= 0x80
			body[11] = s.rcode
		}
		return frametest.Frame(ownMAC, gatewayMAC, frame.TypeIPv4, p)
	case frame.TypeIPv6:
		return s.answer6(f, p)
	}
	return nil
}

// targetOf is a target as people write it; nothing is the gateway.
func targetOf(t *testing.T, s string) (target Target) {
	t.Helper()
	if s == "" {
		return target
	}
	target, err := ParseTarget(s)
	if err != nil || target.String() != s {
		t.Fatal(target, err)
	}
	return target
}

func TestReadyAsksThroughTheTunnel(t *testing.T) {
	for _, row := range []struct {
		name   string
		target string
		said   string
		passed int // frames that the local end sees beside the noise
	}{
		{"the gateway by ARP", "", "gateway 10.0.0.1 answered", 1},
		{"an address beyond the gateway", "192.0.2.9", "192.0.2.9 answered", 1},
		{"a name", "files.corp", "name server 10.0.0.1 answered", 1},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, targetOf(t, row.target))
				said, err := s.m.Ready(t.Context())
				if err != nil || !strings.HasPrefix(said, row.said) {
					t.Fatalf("got %q, %v, want %q", said, err, row.said)
				}
				// Of each question the two frames of noise pass, and of ARP the answer.
				want := 3
				if row.target != "" {
					want += 2
				}
				if got := s.endpoint.Received(t.Context(), want); len(got) != want {
					t.Errorf("the local end got %d frames, want %d", len(got), want)
				}
				asked := s.asked
				if _, err := s.m.Ready(t.Context()); err != nil || s.asked != asked {
					t.Errorf("a moment later: %v, %d questions, want the same answer without another", err, s.asked-asked)
				}
				if st := s.m.Stats(); st.Probes != 1 || st.ProbesFailed != 0 || st.Up != 1 || st.Ready != 1 || st.Connects != 1 {
					t.Errorf("stats: %+v", st)
				}
			})
		})
	}
}

func TestReadySaysWhyNot(t *testing.T) {
	for _, row := range []struct {
		name, target string
		change       func(s *site)
		want         string
	}{
		{"no answer", "", func(s *site) { s.mute.Store(true) }, "10.0.0.1 does not answer to ARP through the tunnel"},
		{"no answer to ping", "10.0.0.9", func(s *site) {}, "10.0.0.9 does not answer to ARP"},
		{"a name server in trouble", "files.corp", func(s *site) { s.rcode = 2 }, "SERVFAIL"},
		{"connecting", "", func(s *site) { s.m.Enter(Connecting) }, "connecting"},
		{"waiting", "", func(s *site) { s.m.Enter(Waiting) }, "the last attempt failed"},
		{"draining", "", func(s *site) { s.m.Drain() }, "draining"},
		{"no session any more", "", func(s *site) { s.stop() }, "the session has ended"},
		{"ourselves", "10.0.0.5", func(s *site) {}, "our own address"},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, targetOf(t, row.target))
				row.change(s)
				if said, err := s.m.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), row.want) {
					t.Errorf("got %q, %v, want %q", said, err, row.want)
				}
				if s.m.Stats().Ready != 0 {
					t.Error("the counters say that it is ready")
				}
			})
		})
	}
}

func TestALostQuestionIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, Target{})
		s.mute.Store(true)
		time.AfterFunc(resendTime+resendTime/2, func() { s.mute.Store(false) })
		if said, err := s.m.Ready(t.Context()); err != nil || s.asked != 3 {
			t.Errorf("got %q, %v after %d questions, want an answer to the third", said, err, s.asked)
		}
	})
}

// A restart is for what a restart mends.
func TestLiveUnlessARestartWouldHelp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, Target{})
		live := func(after time.Duration, want string) {
			t.Helper()
			time.Sleep(after)
			err := s.m.Live(t.Context())
			if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Errorf("got %v, want %q", err, want)
			}
		}
		live(time.Hour, "")
		s.mute.Store(true)
		live(freshTime, "")
		live(deafTime-10*time.Second, "")
		live(10*time.Second, "nobody has answered")
		s.mute.Store(false)
		live(0, "")
		s.m.Enter(Waiting) // for as long as it is configured
		live(24*time.Hour, "")
		s.m.Enter(Connecting)
		live(stuckTime, "")
		live(time.Second, "connecting has taken 5m1s")
		s.m.Enter(Up)
		live(0, "")
		if st := s.m.Stats(); st.Lost != 1 || st.Connects != 2 {
			t.Errorf("stats: %+v", st)
		}
	})
}

func TestStartedOnceUp(t *testing.T) {
	m := New(Config{Endpoint: &frametest.Pipe{}})
	if err := m.Started(); err == nil {
		t.Error("started before it was up")
	}
	m.Enter(Up)
	m.Enter(Waiting)
	if err := m.Started(); err != nil {
		t.Error(err)
	}
}

// A port of a bridge has no address: then the session is all there is to know.
func TestWithoutAnAddressASessionIsEnough(t *testing.T) {
	m := New(Config{Endpoint: &frametest.Pipe{}})
	m.Enter(Up)
	if said, err := m.Ready(t.Context()); err != nil || !strings.Contains(said, "without an address") {
		t.Errorf("got %q, %v", said, err)
	}
}

func TestTargetsThatCannotBeProbed(t *testing.T) {
	for _, s := range []string{"fe80::1%eth0", "http://files.corp/", "files..corp", "a b", strings.Repeat("a.", 130), strings.Repeat("a", 64)} {
		if target, err := ParseTarget(s); err == nil {
			t.Errorf("%q: got %v, want an error", s, target)
		}
	}
}

func TestFramesPassWithoutAllocation(t *testing.T) {
	m := New(Config{Endpoint: discard{}})
	batch := [][]byte{frametest.Frame(ownMAC, gatewayMAC, frame.TypeIPv4, make([]byte, 1500))}
	if n := testing.AllocsPerRun(100, func() { m.WriteFrames(batch) }); n != 0 {
		t.Errorf("got %v allocations", n)
	}
}

type discard struct{ frame.Endpoint }

func (discard) WriteFrames([][]byte) error { return nil }

func TestQuestionsByHTTP(t *testing.T) {
	m := New(Config{Endpoint: &frametest.Pipe{}})
	s := &Server{Monitor: m, Metrics: func(w io.Writer) error {
		_, err := w.Write([]byte("softether_up 0\n"))
		return err
	}}
	ask := func(local bool, method, path string) (int, string) {
		w := httptest.NewRecorder()
		s.Handler(local).ServeHTTP(w, httptest.NewRequest(method, path, nil))
		return w.Code, strings.TrimSpace(w.Body.String())
	}
	for _, row := range []struct {
		local        bool
		method, path string
		up           bool
		code         int
		want         string
	}{
		{false, "GET", "/startupz", false, 503, "the tunnel has not been up yet"},
		{false, "GET", "/readyz", false, 503, "the tunnel is not up: connecting"},
		{false, "GET", "/livez", false, 200, "alive"},
		{false, "GET", "/metrics", false, 200, "softether_up 0"},
		{false, "GET", "/readyz", true, 200, "the session is up, without an address to probe from"},
		{false, "GET", "/startupz", true, 200, "the tunnel has been up"},
		{false, "POST", "/drain", true, 404, "404 page not found"}, // anybody may reach it
		{false, "GET", "/readyz", true, 200, "the session is up, without an address to probe from"},
		{true, "GET", "/drain", true, 405, "Method Not Allowed"},
		{true, "POST", "/drain", true, 200, "draining"},
		{true, "GET", "/readyz", true, 503, "draining: about to stop"},
		{true, "GET", "/livez", true, 200, "alive"},
	} {
		if row.up {
			m.Enter(Up)
		}
		if code, text := ask(row.local, row.method, row.path); code != row.code || text != row.want {
			t.Errorf("%s %s, up %v: got %d %q, want %d %q", row.method, row.path, row.up, code, text, row.code, row.want)
		}
	}
}

func TestAskReachesWhereListenListens(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "unix:" + filepath.Join(t.TempDir(), "health.sock")} {
		ctx, cancel := context.WithCancel(t.Context())
		ln, err := Listen(ctx, address)
		if err != nil {
			t.Fatal(err)
		}
		if ln.Addr().Network() == "tcp" {
			_, port, _ := net.SplitHostPort(ln.Addr().String())
			address = port // alone, which is of 127.0.0.1
		}
		m := New(Config{Endpoint: &frametest.Pipe{}})
		ended := make(chan error, 1)
		go func() { ended <- (&Server{Monitor: m}).Serve(ctx, ln) }()
		if said, err := Ask(ctx, address, http.MethodGet, "readyz"); !errors.Is(err, ErrNot) || !strings.Contains(said, "not up") {
			t.Errorf("%s: got %q, %v", address, said, err)
		}
		m.Enter(Up)
		if said, err := Ask(ctx, address, http.MethodGet, "readyz"); err != nil {
			t.Errorf("%s: got %q, %v", address, said, err)
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want the context's error", err)
		}
		if _, err := Ask(t.Context(), address, http.MethodGet, "readyz"); err == nil || !strings.Contains(err.Error(), "is softether-go running there") {
			t.Errorf("%s: got %v once it has ended", address, err)
		}
	}
}

// What comes from the VPN is taken for an answer or left alone, whatever it is.
func FuzzInbound(f *testing.F) {
	m := &Monitor{cfg: Config{MAC: ownMAC}}
	query, _ := dnsQuery(7, "files.corp")
	f.Add(m.arpRequest(own, gateway))
	f.Add(m.packet(gateway, own, mac(ownMAC), icmp.proto, icmp.echoRequest(gateway, own, 7)))
	f.Add(m.packet(gateway, own, mac(ownMAC), inet.ProtoUDP, datagram(gateway, own, 53, query)))
	f.Add(m.packet(router6, link6, mac(ownMAC), icmp6.proto, icmp6.echoRequest(router6, link6, 7)))
	f.Add(m.packet(router6, link6, mac(ownMAC), inet.ProtoUDP, datagram(router6, link6, 53, query)))
	ask := m.solicitation(link6, router6)
	f.Add(ask)
	f.Add((&site{}).answer6(ask, bytes.Clone(frame.Payload(ask))))
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) < frame.HeaderLen {
			return
		}
		arpReply(in)
		if _, addr, ok := advertisement(in); ok && (frame.Payload(in)[7] != linkHops || !addr.Is6()) {
			t.Errorf("%v is taken for an answer from the link", addr)
		}
		_, proto, p, ok := ip(in)
		if ok && proto == icmp.proto {
			icmp.isEchoReply(p, 7)
		}
		if ok && proto == inet.ProtoUDP && len(p) >= 8 {
			dnsAnswer(p[8:], 7)
		}
	})
}

// The socket is for the same user, takes the place of one that a killed program left, and
// of none that is in use.
func TestASocketsFileIsOursAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "health")
	killed, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	killed.(*net.UnixListener).SetUnlinkOnClose(false)
	killed.Close()
	ln, err := Listen(t.Context(), "unix:"+path)
	if err != nil {
		t.Fatalf("where a killed program listened: %v", err)
	}
	defer ln.Close()
	if info, err := os.Stat(path); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v, %v, want 0600", info.Mode(), err)
	}
	if second, err := Listen(t.Context(), "unix:"+path); err == nil || !strings.Contains(err.Error(), "another program listens there") {
		t.Errorf("a second time: got %v, %v", second, err)
	}
	if c, err := net.Dial("unix", path); err != nil {
		t.Errorf("the first is cut off: %v", err)
	} else {
		c.Close()
	}
}

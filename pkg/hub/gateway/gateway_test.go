package gateway

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/net/dns/dnsmessage"

	"softether-go/netstack"
	"softether-go/pkg/dhcp"
	"softether-go/pkg/frame"
	"softether-go/pkg/netcfg"
)

// host is a client on the gateway's network, configured by the real DHCP client.
type host struct {
	*netstack.Stack
	lease dhcp.Lease
	http  http.Client
}

func newHost(t *testing.T, cfg Config) (*host, *Gateway) {
	t.Helper()
	g, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 5}
	stack, err := netstack.New(netstack.Config{MAC: mac})
	if err != nil {
		t.Fatal(err)
	}
	client := dhcp.New(dhcp.Config{MAC: mac})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 3)
	go func() { done <- g.Serve(ctx) }()
	go func() { done <- g.Run(ctx, client.Filter(stack)) }()
	go func() { done <- stack.Run(ctx, g) }()
	t.Cleanup(func() {
		cancel()
		for range 3 {
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("ended with %v", err)
			}
		}
		stack.Close()
		g.Close()
	})
	asking, stop := context.WithTimeout(ctx, 20*time.Second)
	defer stop()
	lease, err := client.Acquire(asking, frame.Writer(g))
	if err != nil {
		t.Fatal(err)
	}
	if err := stack.Apply(ctx, lease.Config); err != nil {
		t.Fatal(err)
	}
	h := &host{Stack: stack, lease: lease}
	h.http.Transport = &http.Transport{DialContext: stack.DialContext, DisableKeepAlives: true}
	return h, g
}

func (h *host) get(t *testing.T, url string) string {
	t.Helper()
	resp, err := h.http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestAHostGetsEverythingItNeeds(t *testing.T) {
	route := netcfg.Route{Dest: netip.MustParsePrefix("192.0.2.0/24"), Via: netip.MustParseAddr("10.77.0.1")}
	h, g := newHost(t, Config{MTU: 1400, Routes: []netcfg.Route{route}})
	want := netcfg.Config{
		Address: netip.MustParsePrefix("10.77.0.10/24"), Gateway: netip.MustParseAddr("10.77.0.1"),
		Routes: []netcfg.Route{route}, MTU: 1400,
		DNS: netcfg.DNS{Servers: []netip.Addr{netip.MustParseAddr("10.77.0.1")}, Search: []string{"demo"}},
	}
	if !h.lease.Config.Equal(want) {
		t.Errorf("lease %+v, want %+v", h.lease.Config, want)
	}
	if g.Leases() != 1 {
		t.Errorf("%d leases", g.Leases())
	}
	if page := h.get(t, "http://hub.demo/"); !strings.Contains(page, "It works") || !strings.Contains(page, "10.77.0.10") {
		t.Errorf("page: %q", page)
	}
	if page := h.get(t, "http://hub/"); !strings.Contains(page, "It works") {
		t.Errorf("a name completed by the search domain: %q", page)
	}
}

func TestUnknownNamesDoNotExist(t *testing.T) {
	h, _ := newHost(t, Config{})
	_, err := h.LookupNetIP(t.Context(), "ip", "nothing.demo")
	var dns *net.DNSError
	if !errors.As(err, &dns) || !dns.IsNotFound {
		t.Errorf("got %v, want a name that is not found", err)
	}
}

func TestTruncatedAnswersComeByTCP(t *testing.T) {
	h, _ := newHost(t, Config{Truncate: true})
	got, err := h.LookupNetIP(t.Context(), "ip4", "hub.demo")
	if err != nil || len(got) != 1 || got[0].String() != "10.77.0.1" {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestStreamsArriveWhole(t *testing.T) {
	h, _ := newHost(t, Config{})
	const n = 3_000_000
	sum := sha256.New()
	io.CopyN(sum, &Pattern{}, n)
	want := hex.EncodeToString(sum.Sum(nil))

	body := h.get(t, fmt.Sprintf("http://hub.demo/bytes?n=%d", n))
	if got := sha256.Sum256([]byte(body)); hex.EncodeToString(got[:]) != want {
		t.Errorf("downloaded %d bytes with another hash", len(body))
	}
	resp, err := h.http.Post("http://hub.demo/sink", "application/octet-stream", io.LimitReader(&Pattern{}, n))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(resp.Body)
	if got, want := strings.TrimSpace(string(answer)), fmt.Sprintf("%d %s", n, want); got != want {
		t.Errorf("uploaded: %s, want %s", got, want)
	}
	if page := h.get(t, "http://hub.demo/bytes?n=-1"); !strings.Contains(page, "NUMBER") {
		t.Errorf("a senseless request: %q", page)
	}
}

func TestPool(t *testing.T) {
	p := newPool(netip.MustParsePrefix("10.0.0.1/28"), time.Hour) // .10 to .14
	now := time.Unix(1e9, 0)
	addr := func(n int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("10.0.0.%d", n)) }
	for i, mac := range []string{"a", "b", "c", "d", "e"} {
		if a, ok := p.offer(mac, now); !ok || a != addr(10+i) {
			t.Fatalf("offer to %s: %v %v", mac, a, ok)
		}
	}
	if a, ok := p.offer("f", now); ok {
		t.Errorf("an empty pool offered %v", a)
	}
	if a, ok := p.offer("b", now); !ok || a != addr(11) {
		t.Errorf("b was offered %v this time", a)
	}
	for name, row := range map[string]struct {
		addr netip.Addr
		mac  string
		want bool
	}{
		"what was offered":      {addr(11), "b", true},
		"somebody else's":       {addr(11), "c", false},
		"the gateway's":         {addr(1), "b", false},
		"the network's":         {addr(0), "b", false},
		"the broadcast address": {addr(15), "b", false},
		"another network's":     {netip.MustParseAddr("192.0.2.1"), "b", false},
		"no address":            {netip.Addr{}, "b", false},
	} {
		if got := p.claim(row.addr, row.mac, now); got != row.want {
			t.Errorf("claim of %s: %v, want %v", name, got, row.want)
		}
	}
	p.giveUp(addr(11), "c", false, now)
	if p.claim(addr(11), "c", now) {
		t.Error("c freed what is b's")
	}
	p.giveUp(addr(11), "b", true, now)
	if p.claim(addr(11), "c", now) {
		t.Error("a declined address was given at once")
	}
	if !p.claim(addr(11), "c", now.Add(declineTime+time.Second)) {
		t.Error("a declined address is lost for ever")
	}
	p.giveUp(addr(11), "c", false, now)
	if a, ok := p.offer("z", now); !ok || a != addr(11) {
		t.Errorf("a released address was not offered, but %v %v", a, ok)
	}
}

func FuzzRequests(f *testing.F) {
	g := &Gateway{cfg: Config{Address: netip.MustParsePrefix("10.0.0.1/24"), Lease: time.Hour, Domain: "demo",
		Names: map[string]netip.Addr{"hub.demo": netip.MustParseAddr("10.0.0.1")}}}
	g.pool = newPool(g.cfg.Address, time.Hour)
	discover, err := dhcpv4.NewDiscovery(net.HardwareAddr{2, 0, 0, 0, 0, 1})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(discover.ToBytes())
	name := dnsmessage.MustNewName("hub.demo.")
	query := dnsmessage.Message{Header: dnsmessage.Header{ID: 7}, Questions: []dnsmessage.Question{{Name: name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
	b, err := query.Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, in []byte) {
		if m, err := dhcpv4.FromBytes(in); err == nil {
			if resp := g.answer(m, time.Unix(1e9, 0)); resp != nil && !bytes.Equal(resp.TransactionID[:], m.TransactionID[:]) {
				t.Error("answer to another question")
			}
		}
		if resp, err := g.resolve(in, false); err == nil && !bytes.Equal(resp[:2], in[:2]) {
			t.Error("answer with another id")
		}
	})
}

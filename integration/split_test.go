//go:build linux

package integration

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// A hostResolver is what the client's resolv.conf points to. It knows a few names, and
// remembers every question.
type hostResolver struct {
	names map[string]string // to IPv4 addresses, or to the name of one

	mu    sync.Mutex // guards asked
	asked []string
}

func startHostResolver(ns *netns, names map[string]string) *hostResolver {
	ns.t.Helper()
	r := &hostResolver{names: names}
	c := ns.ListenPacket("127.0.0.53:53")
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			c.WriteTo(r.answer(buf[:n]), from)
		}
	}()
	return r
}

func (r *hostResolver) answer(query []byte) []byte {
	var m dnsmessage.Message
	if m.Unpack(query) != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	name := strings.TrimSuffix(strings.ToLower(q.Name.String()), ".")
	r.mu.Lock()
	r.asked = append(r.asked, name)
	r.mu.Unlock()
	m.Response, m.Additionals = true, nil
	address, known := r.names[name]
	switch {
	case !known:
		m.RCode = dnsmessage.RCodeNameError
	case q.Type == dnsmessage.TypeA:
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 60},
			Body:   &dnsmessage.AResource{A: netip.MustParseAddr(address).As4()},
		}}
	case q.Type == dnsmessage.TypePTR:
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 60},
			Body:   &dnsmessage.PTRResource{PTR: dnsmessage.MustNewName(address + ".")},
		}}
	}
	out, _ := m.Pack()
	return out
}

// Asked returns the names asked for, each once, in order.
func (r *hostResolver) Asked() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Compact(slices.Sorted(slices.Values(r.asked)))
}

const (
	pagePort    = "9090" // UDP, each datagram is answered with a page
	dnsListener = "127.0.0.1:5353"
)

func answerUDP(c net.PacketConn, page string) {
	buf := make([]byte, 1500)
	for {
		_, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		c.WriteTo([]byte(page), from)
	}
}

// exchangeUDP sends a datagram to a host by UDP ASSOCIATE, and returns what is answered.
func (w *world) exchangeUDP(ctx context.Context, t testing.TB, host string) string {
	t.Helper()
	control, err := w.cli.Dial(ctx, socksProxy)
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	control.SetDeadline(time.Now().Add(10 * time.Second))
	reply := make([]byte, 2+10)
	if _, err := control.Write([]byte{5, 1, 0, 5, 3, 0, 1, 0, 0, 0, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(control, reply); err != nil || reply[3] != 0 {
		t.Fatalf("associate: got % x, %v", reply, err)
	}
	relay := net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), binary.BigEndian.Uint16(reply[10:])))
	c := w.cli.ListenPacket("127.0.0.1:0")
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	datagram := append([]byte{0, 0, 0, 3, byte(len(host))}, host...)
	if a, err := netip.ParseAddr(host); err == nil {
		datagram = append([]byte{0, 0, 0, 1}, a.AsSlice()...)
	}
	port, _ := strconv.Atoi(pagePort)
	datagram = append(binary.BigEndian.AppendUint16(datagram, uint16(port)), "question"...)
	if _, err := c.WriteTo(datagram, relay); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1500)
	n, _, err := c.ReadFrom(buf)
	if err != nil || n < 10 {
		t.Errorf("a datagram to %s: %d bytes, %v", host, n, err)
		return ""
	}
	return string(buf[10:n])
}

// askDNS asks the DNS listener for an IPv4 address, and returns it or the code of the
// refusal.
func (w *world) askDNS(ctx context.Context, t testing.TB, name string) string {
	t.Helper()
	c, err := w.cli.Dial(ctx, dnsListener)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: 7, RecursionDesired: true}, Questions: []dnsmessage.Question{{
		Name: dnsmessage.MustNewName(name + "."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET,
	}}}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
	size := make([]byte, 2)
	if _, err := io.ReadFull(c, size); err != nil {
		t.Fatal(err)
	}
	b = make([]byte, binary.BigEndian.Uint16(size))
	if _, err := io.ReadFull(c, b); err != nil {
		t.Fatal(err)
	}
	if err := m.Unpack(b); err != nil {
		t.Fatal(err)
	}
	if len(m.Answers) == 0 {
		return m.RCode.String()
	}
	return netip.AddrFrom4(m.Answers[0].Body.(*dnsmessage.AResource).A).String()
}

// Proves that what is direct leaves by the client's own network and all else by the hub,
// by connection, datagram and DNS question, and that each name is asked for on its own side
// alone.
func TestSplit(t *testing.T) {
	t.Parallel()
	const privateHost, internetReverse = "10.99.0.1", "7.100.51.198.in-addr.arpa"
	needTool(t, "dig", "bind9-dnsutils")
	w := newRoutedWorld(t)
	w.srv.ns.IP("address", "add", privateHost+"/32", "dev", "lo")
	const ownPage = "another service of the client's machine\n"
	servePage(w.cli, ownPage)
	w.lan.ns.IP("address", "add", clientAddress+"/32", "dev", "lo") // the same address in the VPN
	ownPorts := flags{"listen": clientAddress + ":1096", "proxy-open": "true", "health": clientAddress + ":9091",
		"L": "0.0.0.0:8500:" + siteName + ":80", "dns-listen": dnsListener + "," + clientAddress + ":5354"}
	host := startHostResolver(w.cli, map[string]string{
		"www.beside.test": internetHost, "rebind.beside.test": "127.0.0.1", "home.beside.test": privateHost,
		siteName: internetHost, "files": internetHost, // which would tell if it were asked
		internetReverse: "www.beside.test", "1.0.200.10.in-addr.arpa": "home.beside.test",
	})
	for ns, page := range map[*netns]string{w.srv.ns: besidePage, w.lan.ns: sitePage} {
		c := ns.ListenPacket("0.0.0.0:" + pagePort)
		go answerUDP(c, page)
	}
	proxies := []string{"socks5h://" + socksProxy, "http://" + httpProxy}
	const (
		inside  = sitePage
		beside  = besidePage
		refused = ""
	)
	for _, row := range []struct {
		name  string
		rules flags
		pages map[string]string // by host
		asked string            // of the host's resolver

		datagrams map[string]string // by host; the page of the side that answers
		answers   map[string]string // to DNS questions
		names     map[string]string // of addresses
	}{
		{"all by the VPN but some", flags{"direct": "beside.test," + farServer + "," + clientAddress},
			map[string]string{
				clientAddress: ownPage,
				siteName:      inside, "files": inside, internetHost: inside, lanGateway: inside,
				farServer: beside, "www.beside.test": beside,
				"rebind.beside.test": refused, "home.beside.test": refused, "none.beside.test": refused,
			}, "home.beside.test none.beside.test rebind.beside.test www.beside.test",
			map[string]string{internetHost: inside, "www.beside.test": beside, siteName: inside, farServer: beside},
			map[string]string{"www.beside.test": internetHost, siteName: lanGateway, "nothing." + lanDomain: "RCodeNameError"},
			map[string]string{lanGateway: siteName + "."},
		},
		{"some by the VPN only", flags{"direct": "default,10.99.0.0/16", "via-vpn": lanDomain + ",203.0.113.0/24"},
			map[string]string{
				clientAddress: inside, // the machine's own is not of the rest
				siteName:      inside, "files": inside, lanGateway: inside, farServer: refused,
				internetHost: beside, "www.beside.test": beside, "home.beside.test": beside, privateHost: beside,
				"rebind.beside.test": refused, "127.0.0.53": refused, "nothing." + lanDomain: refused,
			}, internetReverse + " home.beside.test rebind.beside.test www.beside.test",
			map[string]string{internetHost: beside, "www.beside.test": beside, siteName: inside, lanGateway: inside},
			map[string]string{"www.beside.test": internetHost, siteName: lanGateway, "rebind.beside.test": "RCodeRefused", "home.beside.test": privateHost},
			map[string]string{lanGateway: siteName + ".", internetHost: "www.beside.test."},
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			host.mu.Lock()
			host.asked = nil
			host.mu.Unlock()
			c := w.in(t).StartClient(usualFlags.with(row.rules).with(ownPorts))
			c.WaitUp()
			for _, proxy := range proxies {
				for name, want := range row.pages {
					got, err := w.Curl("--proxy", proxy, "--max-time", "10", "http://"+name+"/")
					if got != want || (err == nil) == (want == refused) {
						t.Errorf("%s by %s: got %q, %v, want %q", name, proxy, got, err, want)
					}
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			for name, want := range row.datagrams {
				if got := w.exchangeUDP(ctx, t, name); got != want {
					t.Errorf("a datagram to %s: got %q, want %q", name, got, want)
				}
			}
			for name, want := range row.answers {
				if got := w.askDNS(ctx, t, name); got != want {
					t.Errorf("a question for %s: got %q, want %q", name, got, want)
				}
			}
			for address, want := range row.names {
				out, _, _ := w.cli.run(t, "", "dig", "@127.0.0.1", "-p", "5353", "+short", "+tries=1", "-x", address)
				if strings.TrimSpace(out) != want {
					t.Errorf("the name of %s: got %q, want %s", address, out, want)
				}
			}
			for _, port := range []string{"1096", "9091", "8500", "5354"} {
				var code socksReply
				if _, err := w.socksDial(ctx, clientAddress+":"+port); !errors.As(err, &code) || code != socksNotAllowed {
					t.Errorf("port %s of the program itself: got %v, want %v", port, err, socksNotAllowed)
				}
			}
			var code socksReply
			if _, err := w.socksDial(ctx, "rebind.beside.test:80"); !errors.As(err, &code) || code != socksNotAllowed {
				t.Errorf("a direct name that says 127.0.0.1: got %v, want %v", err, socksNotAllowed)
			}
			if got := strings.Join(host.Asked(), " "); got != row.asked {
				t.Errorf("the host's resolver was asked for\n %s\nwant\n %s", got, row.asked)
			}
			if n := w.lan.Saw("beside.test"); n > 0 {
				t.Errorf("the VPN's resolver was asked for direct names %d times", n)
			}
		})
	}
}

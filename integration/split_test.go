//go:build linux

package integration

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// A hostResolver is what the client's resolv.conf points to. It knows a few names, and
// remembers every question.
type hostResolver struct {
	names map[string]string // to IPv4 addresses

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

// Proves that what is direct leaves by the client's own network and all else by the hub,
// and that each name is asked for on its own side alone.
func TestSplit(t *testing.T) {
	t.Parallel()
	const privateHost = "10.99.0.1"
	w := newRoutedWorld(t)
	w.srv.ns.IP("address", "add", privateHost+"/32", "dev", "lo")
	host := startHostResolver(w.cli, map[string]string{
		"www.beside.test": internetHost, "rebind.beside.test": "127.0.0.1", "home.beside.test": privateHost,
		siteName: internetHost, "files": internetHost, // which would tell if it were asked
	})
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
	}{
		{"all by the VPN but some", flags{"direct": "beside.test," + farServer},
			map[string]string{
				siteName: inside, "files": inside, internetHost: inside, lanGateway: inside,
				farServer: beside, "www.beside.test": beside,
				"rebind.beside.test": refused, "home.beside.test": refused, "none.beside.test": refused,
			}, "home.beside.test none.beside.test rebind.beside.test www.beside.test"},
		{"some by the VPN only", flags{"direct": "default,10.99.0.0/16", "via-vpn": lanDomain + ",203.0.113.0/24"},
			map[string]string{
				siteName: inside, "files": inside, lanGateway: inside, farServer: refused,
				internetHost: beside, "www.beside.test": beside, "home.beside.test": beside, privateHost: beside,
				"rebind.beside.test": refused, "127.0.0.53": refused, "nothing." + lanDomain: refused,
			}, "home.beside.test rebind.beside.test www.beside.test"},
	} {
		t.Run(row.name, func(t *testing.T) {
			host.mu.Lock()
			host.asked = nil
			host.mu.Unlock()
			c := w.in(t).StartClient(usualFlags.with(row.rules))
			c.WaitUp()
			for _, proxy := range proxies {
				for name, want := range row.pages {
					got, err := w.Curl("--proxy", proxy, "--max-time", "10", "http://"+name+"/")
					if got != want || (err == nil) == (want == refused) {
						t.Errorf("%s by %s: got %q, %v, want %q", name, proxy, got, err, want)
					}
				}
			}
			if got := strings.Join(host.Asked(), " "); got != row.asked {
				t.Errorf("the host's resolver was asked for\n %s\nwant\n %s", got, row.asked)
			}
			if n := w.lan.Saw("beside.test"); n > 0 {
				t.Errorf("the VPN's resolver was asked for direct names %d times", n)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			var code socksReply
			if _, err := w.socksDial(ctx, "rebind.beside.test:80"); !errors.As(err, &code) || code != socksNotAllowed {
				t.Errorf("a direct name that says 127.0.0.1: got %v, want %v", err, socksNotAllowed)
			}
		})
	}
}

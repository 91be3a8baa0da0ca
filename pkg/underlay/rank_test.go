package underlay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// byNumber resolves a, b, … to 192.0.2.1, .2, …, slowly for the first ones.
func byNumber(ctx context.Context, _, host string) ([]netip.Addr, error) {
	if host == "none" {
		return nil, errors.New("no such name")
	}
	select {
	case <-time.After(time.Second / time.Duration(host[0]-'a'+1)):
		return []netip.Addr{netip.MustParseAddr(fmt.Sprintf("192.0.2.%d", host[0]-'a'+1))}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func TestTheFastestServerIsFirst(t *testing.T) {
	const a, b, c, none = "a:443", "b:443", "c:443", "none:443"
	ms, refused := time.Millisecond, errors.New("refused")
	for _, row := range []struct {
		name    string
		answers map[string]answer
		servers []string
		want    []string
	}{
		{"one server", nil, []string{a}, []string{a}},
		{"the last is nearest", map[string]answer{"192.0.2.1:443": {after: 30 * ms}, "192.0.2.2:443": {after: 20 * ms}, "192.0.2.3:443": {after: 10 * ms}},
			[]string{a, b, c}, []string{c, a, b}},
		{"looking up does not count", map[string]answer{"192.0.2.1:443": {after: 10 * ms}, "192.0.2.2:443": {after: 20 * ms}},
			[]string{b, a}, []string{a, b}},
		{"who refuses is last", map[string]answer{"192.0.2.1:443": {err: refused}, "192.0.2.3:443": {after: 10 * ms}},
			[]string{a, none, b, c}, []string{c, b, a, none}},
		{"nobody answers", nil, []string{b, a, c}, []string{b, a, c}},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &network{answers: row.answers}
				d := &Dialer{lookup: byNumber, connect: n.connect}
				if got := d.Fastest(t.Context(), row.servers); !slices.Equal(got, row.want) {
					t.Errorf("got %v, want %v", got, row.want)
				}
				if n.open != 0 {
					t.Errorf("%d connections left open", n.open)
				}
			})
		})
	}
}

func TestAllServersAreProtectedWhileTheyAreCompared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var protected [][]netip.Addr
		n := &network{answers: map[string]answer{"192.0.2.1:443": {}}}
		d := &Dialer{lookup: byNumber, connect: n.connect, Protect: func(_ context.Context, addrs []netip.Addr) error {
			protected = append(protected, addrs)
			return nil
		}}
		d.Fastest(t.Context(), []string{"a:443", "b:443", "192.0.2.9:443"})
		if len(protected) != 1 || len(protected[0]) != 3 {
			t.Errorf("protected %v, want three addresses at once", protected)
		}
		d.Protect = func(context.Context, []netip.Addr) error { return errors.New("no way") }
		n.tried = nil
		if got := d.Fastest(t.Context(), []string{"b:443", "a:443"}); got[0] != "b:443" || len(n.tried) != 0 {
			t.Errorf("got %v, tried %v, want the order as it was and nothing tried", got, n.tried)
		}
	})
}

// Behind a proxy it is the proxy that is connected to and the answer that counts.
func TestServersAreComparedThroughTheProxy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var heard atomic.Int32
		d := &Dialer{
			Via: func(string, uint16) *Proxy { return &Proxy{Scheme: "socks5", Host: "192.0.2.99", Port: 1080} },
			connect: func(_ context.Context, _, address string) (net.Conn, error) {
				if address != "192.0.2.99:1080" {
					return nil, fmt.Errorf("connects to %s", address)
				}
				near, far := net.Pipe()
				go func() {
					defer far.Close()
					far.Read(make([]byte, 3))
					far.Write([]byte("\x05\x00"))
					request := make([]byte, 10)
					far.Read(request)
					heard.Add(1)
					time.Sleep(time.Second / time.Duration(request[7])) // the address's last byte
					far.Write([]byte("\x05\x00\x00\x01......"))
				}()
				return near, nil
			},
			lookup: byNumber,
		}
		if got, want := d.Fastest(t.Context(), []string{"a:443", "b:443"}), []string{"b:443", "a:443"}; !slices.Equal(got, want) || heard.Load() != 2 {
			t.Errorf("got %v by %d requests, want %v by 2", got, heard.Load(), want)
		}
		time.Sleep(2 * time.Second) // for the proxy to end
	})
}

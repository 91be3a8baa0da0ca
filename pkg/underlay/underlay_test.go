package underlay

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var (
	v6 = netip.MustParseAddr("2001:db8::1")
	v4 = netip.MustParseAddr("192.0.2.1")
)

// A network answers connections by address after a while, and notes what was tried.
type network struct {
	answers map[string]answer
	mu      sync.Mutex
	tried   []string
	open    int
}

type answer struct {
	after time.Duration
	err   error
}

func (n *network) connect(ctx context.Context, _, address string) (net.Conn, error) {
	n.mu.Lock()
	n.tried = append(n.tried, address)
	a, ok := n.answers[address]
	n.mu.Unlock()
	if !ok { // nobody there
		<-ctx.Done()
		return nil, ctx.Err()
	}
	select {
	case <-time.After(a.after):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if a.err != nil {
		return nil, a.err
	}
	n.mu.Lock()
	n.open++
	n.mu.Unlock()
	return &conn{n: n, to: address}, nil
}

type conn struct {
	net.Conn
	n  *network
	to string
}

func (c *conn) Close() error {
	c.n.mu.Lock()
	c.n.open--
	c.n.mu.Unlock()
	return nil
}

func both(context.Context, string, string) ([]netip.Addr, error) {
	return []netip.Addr{v6, v4, netip.MustParseAddr("::ffff:192.0.2.1")}, nil
}

func TestFirstAddressThatAnswersWins(t *testing.T) {
	refused := errors.New("refused")
	const to6, to4 = "[2001:db8::1]:443", "192.0.2.1:443"
	for _, row := range []struct {
		name    string
		answers map[string]answer
		want    string
		err     error
		took    time.Duration
		tried   []string
	}{
		{"the first at once", map[string]answer{to6: {}, to4: {}}, to6, nil, 0, []string{to6}},
		{"the first has a head start", map[string]answer{to6: {after: 200 * time.Millisecond}, to4: {}}, to6, nil, 200 * time.Millisecond, []string{to6}},
		{"the first is silent", map[string]answer{to4: {}}, to4, nil, headStart, []string{to6, to4}},
		{"the first refuses", map[string]answer{to6: {err: refused}, to4: {}}, to4, nil, 0, []string{to6, to4}},
		{"both answer in the end", map[string]answer{to6: {after: time.Second}, to4: {after: time.Second}}, to6, nil, time.Second, []string{to6, to4}},
		{"both refuse", map[string]answer{to6: {err: refused}, to4: {err: errors.New("other")}}, "", refused, 0, []string{to6, to4}},
		{"nobody answers", nil, "", context.DeadlineExceeded, 10 * time.Second, []string{to6, to4}},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &network{answers: row.answers}
				d := &Dialer{lookup: both, connect: n.connect}
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				begun := time.Now()
				c, err := d.DialContext(ctx, "tcp", "vpn.example.com:443")
				if took := time.Since(begun); took != row.took || !errors.Is(err, row.err) {
					t.Errorf("took %v with error %v, want %v and %v", took, err, row.took, row.err)
				}
				if c != nil {
					if got := c.(*conn).to; got != row.want {
						t.Errorf("connected to %s, want %s", got, row.want)
					}
					c.Close()
				}
				if n.open != 0 || !slices.Equal(n.tried, row.tried) {
					t.Errorf("%d connections left open; tried %v, want %v", n.open, n.tried, row.tried)
				}
			})
		})
	}
}

func TestAddressesAreProtectedFirst(t *testing.T) {
	n := &network{answers: map[string]answer{"[2001:db8::1]:443": {}, "192.0.2.7:992": {}}}
	var protected []netip.Addr
	d := &Dialer{lookup: both, connect: n.connect, Protect: func(_ context.Context, addrs []netip.Addr) error {
		if len(n.tried) > 0 {
			t.Error("connected before the way was protected")
		}
		protected = addrs
		return nil
	}}
	if _, err := d.DialContext(t.Context(), "tcp", "vpn.example.com:443"); err != nil {
		t.Fatal(err)
	}
	if want := []netip.Addr{v6, v4}; !slices.Equal(protected, want) {
		t.Errorf("protected %v, want %v", protected, want)
	}
	n.tried = nil
	if _, err := d.DialContext(t.Context(), "tcp", "192.0.2.7:992"); err != nil || protected[0].String() != "192.0.2.7" {
		t.Errorf("literal address: %v, protected %v", err, protected)
	}
	n.tried = nil
	refusal := errors.New("the lease covers the server")
	d.Protect = func(context.Context, []netip.Addr) error { return refusal }
	if _, err := d.DialContext(t.Context(), "tcp", "vpn.example.com:443"); !errors.Is(err, refusal) || len(n.tried) > 0 {
		t.Errorf("error %v, tried %v, want the refusal and nothing tried", err, n.tried)
	}
}

func TestLastAddressesOutliveTheNameServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{answers: map[string]answer{"192.0.2.1:443": {}, "192.0.2.2:443": {}}}
		silent := func(ctx context.Context, _, _ string) ([]netip.Addr, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		d := &Dialer{connect: n.connect, lookup: silent}
		dial := func(limit time.Duration) (string, error) {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			c, err := d.DialContext(ctx, "tcp", "vpn.example.com:443")
			if err != nil {
				return "", err
			}
			return c.(*conn).to, nil
		}
		if _, err := dial(10 * time.Second); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("never resolved: got error %v", err)
		}
		for _, known := range []string{"192.0.2.1", "192.0.2.2"} { // a server may move
			d.lookup = func(context.Context, string, string) ([]netip.Addr, error) {
				return []netip.Addr{netip.MustParseAddr(known)}, nil
			}
			if to, err := dial(10 * time.Second); err != nil || to != known+":443" {
				t.Errorf("resolved: got %s, %v", to, err)
			}
			d.lookup = silent
			begun := time.Now()
			if to, err := dial(10 * time.Second); err != nil || to != known+":443" || time.Since(begun) != lookupTimeout {
				t.Errorf("name servers gone: got %s, %v after %v", to, err, time.Since(begun))
			}
		}
	})
}

func TestWhatIsNoAddressIsAnError(t *testing.T) {
	none := func(context.Context, string, string) ([]netip.Addr, error) { return nil, nil }
	for _, address := range []string{"vpn.example.com", "vpn.example.com:https", "vpn.example.com:443"} {
		if _, err := (&Dialer{lookup: none}).DialContext(t.Context(), "tcp", address); err == nil {
			t.Errorf("%s: no error", address)
		}
	}
}

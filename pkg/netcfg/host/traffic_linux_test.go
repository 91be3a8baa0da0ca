package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// in runs fn on a thread in one of the world's other namespaces. The thread is never
// unlocked, so it ends with the goroutine.
func (w *world) in(name string, fn func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		fd, err := unix.Open("/run/netns/"+name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(fd, unix.CLONE_NEWNET)
			unix.Close(fd)
		}
		if err == nil {
			err = fn()
		}
		result <- err
	}()
	return <-result
}

// serve echoes what connections to an address of this host, or of another
// namespace, say.
func (w *world) serve(ns, address string) {
	w.Helper()
	w.answer(ns, address, func(c net.Conn) { io.Copy(c, c) })
}

// answer hands connections to an address to a function, each on its own goroutine, and
// closes them at the end of the test.
func (w *world) answer(ns, address string, talk func(net.Conn)) {
	w.Helper()
	var l net.Listener
	listen := func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	}
	var err error
	if ns == "" {
		err = listen()
	} else {
		err = w.in(ns, listen)
	}
	if err != nil {
		w.Fatal(err)
	}
	var running sync.WaitGroup
	ctx, end := context.WithCancel(context.Background())
	w.Cleanup(func() {
		end()
		l.Close()
		running.Wait()
	})
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer context.AfterFunc(ctx, func() { c.Close() })()
				defer c.Close()
				talk(c)
			})
		}
	})
}

// dial connects from an address in a namespace, or of this host. It fails if nobody answers.
func (w *world) dial(ns, from, to string, limit time.Duration) (c net.Conn, err error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: limit, KeepAlive: -1}
	dial := func() (err error) {
		c, err = d.DialContext(context.Background(), "tcp", to)
		return err
	}
	if ns == "" {
		err = dial()
	} else {
		err = w.in(ns, dial)
	}
	if err == nil {
		w.Cleanup(func() { c.Close() })
	}
	return c, err
}

// echo says something and hears it again.
func echo(c net.Conn, what string) error {
	c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, what); err != nil {
		return err
	}
	got := make([]byte, len(what))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if string(got) != what {
		return fmt.Errorf("heard %q, said %q", got, what)
	}
	return nil
}

// reaches fails the test unless a connection works, or unless it does not.
func (w *world) reaches(should bool, ns, from, to string) {
	w.Helper()
	limit := 1500 * time.Millisecond
	if should {
		limit = patience
	}
	c, err := w.dial(ns, from, to, limit)
	if err == nil {
		err = echo(c, "hello")
	}
	if (err == nil) != should {
		w.Errorf("from %s in %s to %s: got error %v, should reach it: %t", from, ns, to, err, should)
	}
}

// service makes a container behind a bridge, with an echo on port 80 to which
// port 8080 of this host leads.
func (w *world) service() {
	w.Helper()
	w.sh(`ip netns add svc; ip -n svc link set lo up
		ip link add docker0 index 50 type veth peer name eth0 netns svc
		ip addr add 172.17.0.1/16 dev docker0; ip link set docker0 up
		ip -n svc addr add 172.17.0.2/16 dev eth0; ip -n svc link set eth0 up; ip -n svc route add default via 172.17.0.1
		echo 1 >/proc/sys/net/ipv4/ip_forward
		nft add table ip docker
		nft 'add chain ip docker pre { type nat hook prerouting priority dstnat; }'
		nft add rule ip docker pre tcp dport 8080 dnat to 172.17.0.2:80
		nft 'add chain ip docker theirs { type filter hook prerouting priority -160; }'
		nft add rule ip docker theirs iifname vpn0 ct mark set ct mark or 0x5`)
	w.serve("svc", ":80")
}

// strict turns the reverse-path filter on everywhere.
func (w *world) strict() { w.sh("for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 1 >$f; done") }

// patience is for what is to succeed, however slow the machine.
const patience = 15 * time.Second

const (
	outside = "198.51.100.7"  // someone on the Internet, in the namespace net
	inside  = "198.51.100.99" // someone behind the VPN's gateway, in the namespace vpn
)

func TestLoggedInStaysConnected(t *testing.T) {
	inWorld(t, func(w *world) {
		w.strict()
		w.serve("", ":2222")
		before, err := w.dial("net", outside, "192.0.2.10:2222", patience)
		if err != nil {
			t.Fatal(err)
		}
		h := w.open(Options{AcceptDefaultGateway: true})
		w.protect(h, "203.0.113.5")
		w.apply(h, lease())
		if got := w.sh("ip route get " + outside); !strings.Contains(got, "dev vpn0") {
			t.Fatalf("the default route has not moved: %s", got)
		}
		if err := echo(before, "still here"); err != nil {
			t.Errorf("the connection from before: %v", err)
		}
		w.reaches(true, "net", outside, "192.0.2.10:2222")
		w.sh("ip rule del pref 32765; ip rule del pref 32765; nft list ruleset")
		if c, err := w.dial("net", outside, "192.0.2.10:2222", time.Second); err == nil {
			t.Errorf("without the rules %v works too, so this test shows nothing", c.LocalAddr())
		}
		w.close(h)
		if err := echo(before, "and after"); err != nil {
			t.Errorf("after Close: %v", err)
		}
	})
}

func TestForwardedConnectionsKeepTheirWay(t *testing.T) {
	inWorld(t, func(w *world) {
		w.strict()
		w.service()
		w.reaches(true, "net", outside, "192.0.2.10:8080")
		h := w.open(Options{AcceptDefaultGateway: true})
		h.noNFT = errNoTables // pretend
		w.protect(h, "203.0.113.5")
		w.apply(h, lease())
		w.reaches(false, "net", outside, "192.0.2.10:8080")
		h.noNFT = nil
		w.apply(h, lease())
		w.reaches(true, "net", outside, "192.0.2.10:8080")
		w.close(h)
		w.reaches(true, "net", outside, "192.0.2.10:8080")
	})
}

// Who only listens, as to the output of a program, says nothing by which a connection
// from before could be marked.
func TestForwardedConnectionsFromBeforeKeepTheirWay(t *testing.T) {
	inWorld(t, func(w *world) {
		w.strict()
		w.service()
		w.answer("svc", ":81", func(c net.Conn) {
			for _, err := c.Write([]byte{0}); err == nil; _, err = c.Write([]byte{1}) {
				time.Sleep(100 * time.Millisecond)
			}
		})
		w.sh("nft add rule ip docker pre tcp dport 8081 dnat to 172.17.0.2:81")
		c, err := w.dial("net", outside, "192.0.2.10:8081", patience)
		if err != nil {
			t.Fatal(err)
		}
		hears := func(when string) {
			t.Helper()
			c.SetDeadline(time.Now().Add(patience))
			if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
				t.Errorf("%s: %v", when, err)
			}
		}
		hears("before")
		h := w.open(Options{AcceptDefaultGateway: true})
		w.protect(h, "203.0.113.5")
		w.apply(h, lease())
		hears("in the tunnel's presence")
		w.close(h)
		hears("after Close")
	})
}

func TestPolicyTableAnswersByTheVPN(t *testing.T) {
	inWorld(t, func(w *world) {
		w.strict()
		w.serve("", ":2222")
		h := w.open(Options{})
		w.protect(h, "203.0.113.5")
		w.apply(h, lease())
		w.reaches(false, "vpn", inside, "10.77.0.50:2222")
		w.close(h)
		h = w.open(Options{PolicyTable: 200})
		w.protect(h, "203.0.113.5")
		w.apply(h, lease())
		w.reaches(true, "vpn", inside, "10.77.0.50:2222")
		w.close(h)
	})
}

func TestConnMarkAnswersForwardedByTheVPN(t *testing.T) {
	inWorld(t, func(w *world) {
		w.strict()
		w.service()
		h := w.open(Options{PolicyTable: 200})
		w.apply(h, lease())
		w.reaches(false, "vpn", inside, "10.77.0.50:8080")
		w.close(h)
		h = w.open(Options{PolicyTable: 200, ConnMark: true})
		w.apply(h, lease())
		w.reaches(true, "vpn", inside, "10.77.0.50:8080")
		w.reaches(true, "net", outside, "192.0.2.10:8080")
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
		if err != nil {
			t.Fatal(err)
		}
		marked := 0
		for _, f := range flows {
			if f.Forward.SrcIP.String() == inside && f.Mark == 0x01000005 {
				marked++
			}
		}
		if marked != 1 {
			t.Errorf("no connection with our mark and that of others (0x5): %v", flows)
		}
		w.close(h)
	})
}

func TestAllFlagsTogether(t *testing.T) {
	inWorld(t, func(w *world) {
		w.strict()
		w.service()
		w.serve("", ":2222")
		w.serve("vpn", ":7")
		h := w.open(everything())
		w.protect(h, "203.0.113.5")
		w.apply(h, lease())
		w.reaches(true, "vpn", inside, "10.77.0.50:2222")
		w.reaches(true, "vpn", inside, "10.77.0.50:8080")
		w.reaches(true, "net", outside, "192.0.2.10:2222")
		w.reaches(true, "net", outside, "192.0.2.10:8080")
		w.reaches(true, "svc", "172.17.0.2", "172.17.0.1:2222")
		c, err := net.DialTimeout("tcp", inside+":7", patience)
		if err != nil {
			t.Fatalf("out by the VPN: %v", err)
		}
		defer c.Close()
		if err := echo(c, "by the VPN"); err != nil || !strings.HasPrefix(c.LocalAddr().String(), "10.77.0.50:") {
			t.Errorf("out by the VPN from %v: %v", c.LocalAddr(), err)
		}
		w.close(h)
	})
}

func TestIPv6(t *testing.T) {
	inWorld(t, func(w *world) {
		w.sh(`ip addr add 2001:db8:1::10/64 dev eth0 nodad; ip -n net addr add 2001:db8:1::1/64 dev host nodad
			ip -n net addr add 2001:db8:5::5/128 dev lo; ip -n net addr add 2001:db8:6::6/128 dev lo
			ip -6 route add default via 2001:db8:1::1 dev eth0`)
		before := w.state()
		w.serve("net", "[::]:443")
		w.serve("", "[::]:2222")
		o := Options{AcceptDefaultGateway: true, BlockIPv6: true}
		h := w.open(o)
		w.protect(h, "203.0.113.5", "2001:db8:5::5")
		w.apply(h, lease())
		w.show("blocked")
		c, err := net.DialTimeout("tcp", "[2001:db8:5::5]:443", patience)
		if err != nil {
			t.Fatalf("the server by IPv6: %v", err)
		}
		defer c.Close()
		if err := echo(c, "underlay"); err != nil {
			t.Errorf("the server by IPv6: %v", err)
		}
		if leak, err := net.DialTimeout("tcp", "[2001:db8:6::6]:443", patience); !errors.Is(err, unix.EHOSTUNREACH) && !errors.Is(err, unix.ENETUNREACH) {
			t.Errorf("beside the tunnel: %v, %v; want no route", leak, err)
		}
		w.reaches(true, "net", "2001:db8:6::6", "[2001:db8:1::10]:2222")
		w.close(h)
		w.same(before, "after Close")
	})
}

func TestApplyAnnouncesTheAddress(t *testing.T) {
	inWorld(t, func(w *world) {
		h := w.open(Options{})
		w.apply(h, lease())
		const other = "ip -n vpn neigh show 10.77.0.50"
		w.sh("ip -n vpn neigh replace 10.77.0.50 lladdr 02:00:00:00:00:99 nud stale dev hub")
		w.apply(h, lease())
		w.eventually("who has our address", other, h.macText())
		if got := w.sh("ip -o link show vpn0"); !strings.Contains(got, h.macText()) {
			t.Errorf("we announce %s, but have %s", h.macText(), got)
		}
		w.close(h)
	})
}

func (h *Host) macText() string { return net.HardwareAddr(h.mac[:]).String() }

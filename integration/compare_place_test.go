//go:build linux

package integration

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A place is a hub with the generators behind it, and a way in for any number of
// clients, each from a namespace of its own:
//
//	cli ── veth 198.18.1.0/24 ──┐
//	cli ── veth 198.18.2.0/24 ──┼── srv: vpnserver or our hub ── TAP ── lan 10.200.0.1
//	…                           ┘
type place struct {
	t      testing.TB
	name   string
	srv    *netns
	server *server // nil with our hub
	pids   []int   // of the hub
	lan    *lan
	load   *lanLoad
	rooms  int
}

const (
	realServer = "vpnserver"
	ourHub     = "embedded hub"
)

// newPlace makes the named one, which ends with the test.
func newPlace(t testing.TB, name string) *place {
	t.Helper()
	p := &place{t: t, name: name, srv: newNetns(t, "srv")}
	if name == realServer {
		p.server = startServer(t, p.srv)
		p.server.CreateHub()
		p.pids = family(t, p.server.proc.PID())
		p.lan = newLAN(t, p.server)
		p.lan.Dnsmasq(usualLease)
	} else {
		hub, err := childCommand(p.srv, childHub)
		if err != nil {
			t.Fatal(err)
		}
		p.pids = []int{hub.PID()}
		p.lan = newLANOfChild(t, p.srv)
	}
	p.load = startLANLoad(t, p.lan.ns)
	if _, err := childCommand(p.lan.ns, childEcho); err != nil {
		t.Fatal(err)
	}
	return p
}

// newLANOfChild is a LAN for childHub, which makes its TAP by itself.
func newLANOfChild(t testing.TB, srv *netns) *lan {
	t.Helper()
	l := &lan{t: t, ns: newNetns(t, "lan"), srv: &server{t: t, ns: srv}}
	l.ns.IP("link", "add", "br0", "type", "bridge", "stp_state", "0", "forward_delay", "0", "mcast_snooping", "0")
	l.ns.IP("address", "add", lanGateway+"/24", "dev", "br0")
	l.ns.IP("link", "set", "br0", "up")
	l.site = startSite(t, l.ns)
	l.Attach()
	needTool(t, "dnsmasq", "dnsmasq-base")
	l.dhcp = start(t, "dnsmasq", l.ns.Command("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--interface=br0",
		"--bind-interfaces", "--except-interface=lo", "--port=0", "--no-ping", "--user=root", "--pid-file=", "--log-facility=-",
		"--dhcp-authoritative", "--dhcp-leasefile="+filepath.Join(run.dir, l.ns.name+".leases"), "--dhcp-range=10.200.0.50,10.200.0.150"))
	l.dhcp.WaitLog(`DHCP, sockets bound`, 10*time.Second)
	return l
}

// A room is where one client lives.
type room struct {
	*world
	host string // the server's address from here
	veth string // the server's end of the cable
}

// room makes one.
func (p *place) room() *room {
	p.t.Helper()
	p.rooms++
	r := &room{
		world: &world{t: p.t, cli: newNetns(p.t, "cli"), srv: p.server, lan: p.lan},
		host:  fmt.Sprintf("198.18.%d.1", p.rooms),
		veth:  fmt.Sprintf("eth%d", p.rooms),
	}
	command(p.t, "ip", "link", "add", "eth0", "netns", r.cli.name, "type", "veth", "peer", "name", r.veth, "netns", p.srv.name)
	p.srv.IP("address", "add", r.host+"/24", "dev", r.veth)
	r.cli.IP("address", "add", fmt.Sprintf("198.18.%d.2/24", p.rooms), "dev", "eth0")
	p.srv.IP("link", "set", r.veth, "up")
	r.cli.IP("link", "set", "eth0", "up")
	return r
}

// An entrant is a way to reach what is behind a hub, and the processes that it costs.
type entrant struct {
	t     testing.TB
	name  string
	place *place
	room  *room
	ns    *netns
	proxy string // of SOCKS5; empty means by the kernel
	pids  []int
}

const (
	officialTAP   = "official TAP"
	oursTAP       = "ours TAP"
	officialSOCKS = "official + microsocks"
	oursSOCKS     = "ours SOCKS"
	officialUDP   = "official UDP"
	oursUDP       = "ours UDP"
	oursRun       = "ours run"
	bareTLSName   = "bare crypto/tls" // to our hub's neighbour; nothing but bulk
)

// peers says whom each entrant is compared with.
var peers = map[string]string{oursTAP: officialTAP, oursSOCKS: officialSOCKS, oursUDP: officialUDP, oursRun: oursTAP}

// enter connects the named entrants and waits until each carries traffic. Both
// official ones share one client.
func (p *place) enter(names ...string) []*entrant {
	p.t.Helper()
	var entrants []*entrant
	var shared *entrant
	for _, name := range names {
		e := &entrant{t: p.t, name: name, place: p}
		switch name {
		case officialTAP, officialSOCKS:
			if shared == nil {
				shared = p.enterOfficial()
			}
			e.settle(shared.room, shared.pids...)
			if name == officialSOCKS {
				e.addMicrosocks()
			}
		case officialUDP:
			e.enterOfficialUDP()
		case oursRun:
			e.enterRun()
		case oursUDP:
			r := p.room()
			e.settle(r, r.StartTAP(tapFlags.with(flags{"host": r.host, "udp": "require"})).PID())
		case oursTAP:
			r := p.room()
			e.settle(r, r.StartTAP(tapFlags.with(flags{"host": r.host})).PID())
		case oursSOCKS:
			r := p.room()
			e.proxy = socksProxy
			e.settle(r, r.StartClient(usualFlags.with(flags{"host": r.host})).PID())
		case bareTLSName:
			e.settle(p.room())
		}
		entrants = append(entrants, e)
	}
	for _, e := range entrants {
		if e.name != bareTLSName {
			e.WaitUp()
		}
	}
	return entrants
}

func (p *place) enterOfficial() *entrant {
	p.t.Helper()
	r := p.room()
	o := startOfficial(p.t, r.cli)
	o.Connect(net.JoinHostPort(r.host, serverPort), hubName, userPassword, officialAddress)
	return &entrant{room: r, pids: family(p.t, o.proc.PID())}
}

func (e *entrant) enterOfficialUDP() {
	e.t.Helper()
	r := e.place.room()
	o := startOfficial(e.t, r.cli)
	o.ConnectUDP(net.JoinHostPort(r.host, serverPort), hubName, userPassword, officialAddress)
	e.settle(r, family(e.t, o.proc.PID())...)
}

// enterRun is a command with a network of its own, whose namespace is the way in.
func (e *entrant) enterRun() {
	e.t.Helper()
	r := e.place.room()
	front := start(e.t, "run", r.RunCommand(runFlags.with(flags{"host": r.host}), insideProgram(e.t), "serve", ":80"))
	addressOf(front)
	outside, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", front.PID()))
	if err != nil {
		e.t.Fatal(err)
	}
	e.settle(r)
	for _, pid := range descendants(front.PID()) {
		e.pids = append(e.pids, pid)
		if net, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid)); err == nil && net != outside && e.ns == r.cli {
			e.ns = &netns{t: e.t, name: r.cli.name + "in"}
			command(e.t, "ip", "netns", "attach", e.ns.name, strconv.Itoa(pid))
			e.t.Cleanup(func() { removeNamespace(e.ns.name) })
		}
	}
	if e.ns == r.cli {
		e.t.Fatal("the command has no network of its own")
	}
}

// descendants are a process and all that it has started, and they.
func descendants(pid int) []int {
	all := []int{pid}
	children, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, file := range children {
		text, _ := os.ReadFile(file)
		for _, word := range strings.Fields(string(text)) {
			if child, err := strconv.Atoi(word); err == nil {
				all = append(all, descendants(child)...)
			}
		}
	}
	return all
}

func (e *entrant) settle(r *room, pids ...int) { e.room, e.ns, e.pids = r, r.cli, pids }

func (e *entrant) addMicrosocks() {
	e.t.Helper()
	needTool(e.t, "microsocks", "microsocks")
	host, port, _ := net.SplitHostPort(socksProxy)
	m := start(e.t, "microsocks", e.ns.Command("microsocks", "-i", host, "-p", port))
	e.proxy, e.pids = socksProxy, append(e.pids[:len(e.pids):len(e.pids)], m.PID())
}

// connect reaches target behind the hub. It works on a thread in the entrant's
// namespace only.
func (e *entrant) connect(target string, within time.Duration) (net.Conn, error) {
	return connectBy(e.proxy, target, within)
}

// connectBy connects by a SOCKS5 proxy, or if that is empty by the kernel.
func connectBy(proxy, target string, within time.Duration) (net.Conn, error) {
	address := target
	if proxy != "" {
		address = proxy
	}
	c, err := net.DialTimeout("tcp4", address, within)
	if err != nil || proxy == "" {
		return c, err
	}
	c.SetDeadline(time.Now().Add(within))
	if err := socksConnectInSteps(c, target); err != nil {
		c.Close()
		return nil, err
	}
	c.SetDeadline(time.Time{})
	return c, nil
}

// socksConnectInSteps waits for each answer, because microsocks forgets what it
// gets together with the greeting. (RFC 1928, sections 3 and 4)
func socksConnectInSteps(c net.Conn, target string) error {
	to, err := netip.ParseAddrPort(target)
	if err != nil {
		return err
	}
	request := append([]byte{5, 1 /* connect */, 0, 1 /* IPv4 */}, to.Addr().AsSlice()...)
	request = binary.BigEndian.AppendUint16(request, to.Port())
	for _, step := range []struct {
		say    []byte
		answer int // bytes; the second is the outcome
	}{{[]byte{5, 1, 0 /* no authentication */}, 2}, {request, 10}} {
		if _, err := c.Write(step.say); err != nil {
			return err
		}
		answer := make([]byte, step.answer)
		if _, err := io.ReadFull(c, answer); err != nil {
			return err
		}
		if code := socksReply(answer[1]); code != socksSucceeded {
			return code
		}
	}
	return nil
}

// dial is connect from anywhere.
func (e *entrant) dial(target string) (c net.Conn, err error) {
	err = e.ns.do(func() (err error) {
		c, err = e.connect(target, 10*time.Second)
		return err
	})
	return c, err
}

// WaitUp waits until a byte has come back from behind the hub.
func (e *entrant) WaitUp() {
	e.t.Helper()
	if err := e.firstEcho(upTime); err != nil {
		e.t.Fatalf("%s carries nothing within %v: %v", e.name, upTime, err)
	}
}

// firstEcho is done when a byte has come back. It asks every few milliseconds, so
// that its return says when: TCP's own second try would come a second later.
func (e *entrant) firstEcho(within time.Duration) error {
	return e.ns.do(func() error {
		for deadline := time.Now().Add(within); ; time.Sleep(2 * time.Millisecond) {
			err := e.tryEcho()
			if err == nil || time.Now().After(deadline) {
				return err
			}
		}
	})
}

func (e *entrant) tryEcho() error {
	c, err := e.connect(echoTarget, 50*time.Millisecond)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := echoOnce(c, 100*time.Millisecond); err != nil {
		return errors.New("no echo")
	}
	return nil
}

//go:build linux

package integration

import (
	"bytes"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sys/unix"
)

// tapCommand prepares the program as StartTAP does, on a host that a script has
// changed for it alone.
func (w *world) tapCommand(script string, f flags) *exec.Cmd {
	w.t.Helper()
	path, err := buildClient()
	if err != nil {
		w.t.Fatal(err)
	}
	return w.rootCommand(append([]string{"sh", "-ec", script + "\n" + `exec $as "$@"`, "sh", path}, f.args()...)...)
}

// Proves that each way to start it wrong ends with one line that says what to do, and
// with the host as it was.
func TestTAPBadInput(t *testing.T) {
	t.Parallel()
	needTool(t, "setpriv", "util-linux")
	w := newWorld(t)
	w.cli.IP("route", "add", "default", "via", serverAddress)
	const (
		openDevice = `mount -t tmpfs tmpfs /dev/net; mknod /dev/net/tun c 10 200; chmod 666 /dev/net/tun
			`
		asNobody = `as="setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all"`
	)
	before := w.hostState()
	for _, row := range []struct {
		name   string
		script string
		flags  flags
		code   int
		words  string
	}{
		{"no device", `mount -t tmpfs tmpfs /dev/net`, nil, exitLocal, `/dev/net/tun: .*modprobe tun.*--device /dev/net/tun.*-socks5`},
		{"as nobody", asNobody, nil, exitLocal, `run as root.*NET_ADMIN.*-socks5`},
		{"as nobody with a device for all", openDevice + asNobody, nil, exitLocal, `CAP_NET_ADMIN: run as root.*-socks5`},
		{"as root without the capability", `as="setpriv --bounding-set=-net_admin"`, nil, exitLocal, `CAP_NET_ADMIN.*--cap-add NET_ADMIN`},
		{"the name of another interface", "", flags{"tap": "eth0"}, exitLocal, `tap eth0: .*of the kind veth; choose another name`},
		{"a long name", "", flags{"tap": "a-name-of-17-chars"}, exitUsage, `-tap.*15`},
		{"a table of the kernel's", "", flags{"policy-route-table": "254"}, exitUsage, `-policy-route-table.*254.*such as`},
		{"a table that is no number", "", flags{"policy-route-table": "main"}, exitUsage, `-policy-route-table: "main" .*give one like 200`},
		{"a group's MAC address", "", flags{"mac": "01:00:5e:00:00:01"}, exitUsage, `-mac: "01:00:5e:00:00:01" is a group's address: .* is even`},
		{"marks without a table", "", flags{"connmark": "true"}, exitUsage, `-connmark.*add -policy-route-table, such as`},
		{"a read-only resolv.conf", `mount -o remount,bind,ro /etc/resolv.conf`, flags{"accept-dns": "true"}, exitLocal,
			`resolv.conf is a read-only mount: make it writable, or leave out -accept-dns`},
		{"a read-only /etc", `umount /etc/resolv.conf /etc/hosts; mount -o remount,bind,ro /etc`, flags{"accept-dns": "true"}, exitLocal,
			`neither resolv.conf nor its directory can be written: make it writable, or leave out -accept-dns`},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := start(t, "softether-go", w.in(t).tapCommand(row.script, fullFlags.with(flags{
				"policy-route-table": absent, "connmark": absent, "accept-dns": absent}).with(row.flags)))
			if got := c.ExitCode(upTime); got != row.code {
				t.Errorf("exit code: got %d, want %d", got, row.code)
			}
			c.wantLine(row.words)
			w.sameHost(t, before)
		})
	}
	t.Run("no nf_tables", func(t *testing.T) {
		c := startWithoutNFTables(t, w.in(t).tapCommand("", fullFlags))
		if got := c.ExitCode(upTime); got != exitLocal {
			t.Errorf("exit code: got %d, want %d", got, exitLocal)
		}
		c.wantLine(`mark connections: the kernel has no nf_tables: load it \(modprobe nf_tables`)
		w.sameHost(t, before)
	})
}

// startWithoutNFTables starts the program as on a kernel that has none: a filter of
// system calls, which the program inherits, refuses the sockets that speak to it.
func startWithoutNFTables(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	const (
		number, domain, protocol = 0, 16, 32 // in struct seccomp_data, low halves
		refuse                   = unix.SECCOMP_RET_ERRNO | uint32(unix.EPROTONOSUPPORT)
	)
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	unless := func(value uint32, skip uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: value, Jf: skip}
	}
	filter := []unix.SockFilter{
		load(number), unless(unix.SYS_SOCKET, 5),
		load(domain), unless(unix.AF_NETLINK, 3),
		load(protocol), unless(unix.NETLINK_NETFILTER, 1),
		{Code: unix.BPF_RET | unix.BPF_K, K: refuse},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	started := make(chan *process, 1)
	go func() {
		defer close(started)
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0)
		if err != nil {
			t.Errorf("filter system calls: %v", err)
			return
		}
		started <- start(t, "softether-go", cmd)
	}()
	c := <-started
	if c == nil {
		t.FailNow()
	}
	return c
}

// answered are the messages that want an answer.
var answered = []dhcpv4.MessageType{dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest}

// A dhcpAnswer is what a server makes of one of those, message by message.
type dhcpAnswer func(request *dhcpv4.DHCPv4) [][]byte

// AnswerDHCP serves DHCP by the test's own answers, which may change.
func (l *lan) AnswerDHCP(answer dhcpAnswer) (change func(dhcpAnswer)) {
	l.t.Helper()
	l.ns.IP("route", "add", "255.255.255.255", "dev", "br0")
	conn := l.ns.ListenPacket("0.0.0.0:67")
	var mu sync.Mutex
	go func() {
		buf := make([]byte, 1500)
		for {
			n, _, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			request, err := dhcpv4.FromBytes(buf[:n])
			if err != nil || !slices.Contains(answered, request.MessageType()) {
				continue
			}
			mu.Lock()
			messages := answer(request)
			mu.Unlock()
			for _, m := range messages {
				conn.WriteTo(m, &net.UDPAddr{IP: net.IPv4bcast, Port: 68})
			}
		}
	}()
	return func(other dhcpAnswer) {
		mu.Lock()
		defer mu.Unlock()
		answer = other
	}
}

// leaseAnswer grants an address with its subnet, and what options change of that.
func leaseAnswer(request *dhcpv4.DHCPv4, address string, options ...dhcpv4.Modifier) []byte {
	kind := dhcpv4.MessageTypeOffer
	if request.MessageType() == dhcpv4.MessageTypeRequest {
		kind = dhcpv4.MessageTypeAck
	}
	own := netip.MustParsePrefix(address)
	server := net.ParseIP(lanGateway).To4()
	m, err := dhcpv4.NewReplyFromRequest(request, append([]dhcpv4.Modifier{
		dhcpv4.WithMessageType(kind),
		dhcpv4.WithYourIP(own.Addr().AsSlice()),
		dhcpv4.WithNetmask(net.CIDRMask(own.Bits(), 32)),
		dhcpv4.WithServerIP(server),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(server)),
		dhcpv4.WithLeaseTime(3600),
	}, options...)...)
	if err != nil {
		panic(err) // of the test
	}
	return m.ToBytes()
}

func routeOption(code uint8, dest string, via string) dhcpv4.Modifier {
	p := netip.MustParsePrefix(dest)
	r := &dhcpv4.Route{Dest: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}, Router: net.ParseIP(via)}
	return dhcpv4.WithGeneric(dhcpv4.GenericOptionCode(code), dhcpv4.Routes{r}.ToBytes())
}

// Proves that a lease which would cut the host off from the server or its own network
// is refused in one line, and that nothing of it is applied.
func TestTAPHarmfulLeases(t *testing.T) {
	t.Parallel()
	w := newWorldWithoutDHCP(t)
	w.cli.IP("address", "add", "172.16.5.2/24", "dev", "eth0")
	w.cli.IP("route", "add", "default", "via", serverAddress)
	change := w.lan.AnswerDHCP(func(*dhcpv4.DHCPv4) [][]byte { return nil })
	before := w.hostState()
	for _, row := range []struct {
		name    string
		address string
		options []dhcpv4.Modifier
		words   string
	}{
		{"the server in the subnet", "198.18.200.50/16", nil, `refused: the VPN's subnet 198\.18\.0\.0/16 contains the server's own address 198\.18\.0\.1;`},
		{"our own subnet", "172.16.5.77/24", nil, `refused: .*would take packets from this host's own 172\.16\.5\.0/24 on eth0; .*renumbered`},
		{"our own address", "172.16.5.2/16", nil, `refused: the VPN gives us 172\.16\.5\.2, which eth0 has already`},
		{"a route to the server", "10.200.0.60/24", []dhcpv4.Modifier{routeOption(121, serverAddress+"/32", lanGateway)},
			`refused: the VPN's route to 198\.18\.0\.1 would lead the tunnel into itself; leave out -accept-static-routes`},
		{"a route to our own subnet", "10.200.0.60/24", []dhcpv4.Modifier{routeOption(249, "172.16.5.0/25", lanGateway)},
			`refused: the VPN's route to 172\.16\.5\.0/25 would take packets from this host's own 172\.16\.5\.0/24 on eth0`},
	} {
		t.Run(row.name, func(t *testing.T) {
			change(func(r *dhcpv4.DHCPv4) [][]byte { return [][]byte{leaseAnswer(r, row.address, row.options...)} })
			c := w.in(t).StartTAP(fullFlags)
			if got := c.ExitCode(upTime); got != exitLocal {
				t.Errorf("exit code: got %d, want %d", got, exitLocal)
			}
			c.wantLine(row.words)
			w.sameHost(t, before)
		})
	}
}

// Proves that answers which make no sense are passed over, that the line after the wait
// says what was wrong with them, and that the first good one is taken.
func TestTAPNonsenseFromDHCP(t *testing.T) {
	t.Parallel()
	w := newWorldWithoutDHCP(t)
	before := w.hostState()
	good := func(r *dhcpv4.DHCPv4, options ...dhcpv4.Modifier) []byte {
		return leaseAnswer(r, "10.200.0.60/24", options...)
	}
	nonsense := func(r *dhcpv4.DHCPv4) [][]byte {
		other := *r
		other.TransactionID[0]++
		endless := good(r)
		end := bytes.LastIndexByte(endless, dhcpv4.OptionEnd.Code())
		endless = append(endless[:end], 43, 200, 1) // an option longer than the message
		return [][]byte{
			nil, {1}, good(r)[:100], good(r)[:240], endless, good(&other),
			good(r, dhcpv4.WithMessageType(dhcpv4.MessageType(99))),
			good(r, dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4bcast))),
			leaseAnswer(r, "10.200.0.0/24"), leaseAnswer(r, "10.200.0.255/24"),
			leaseAnswer(r, "0.0.0.0/24"), leaseAnswer(r, "224.0.0.5/24"), leaseAnswer(r, "127.0.0.1/8"),
		}
	}
	var asked atomic.Int64
	change := w.lan.AnswerDHCP(func(r *dhcpv4.DHCPv4) [][]byte {
		asked.Add(1)
		return nonsense(r)
	})
	c := w.StartTAP(fullFlags)
	eventually(t, upTime, "it asks again", is(func() bool { return asked.Load() > 1 }))
	if got := w.cli.IP("-4", "address", "show", "dev", tapName); strings.Contains(got, "inet") {
		t.Errorf("after nonsense there is an address:\n%s", got)
	}
	c.WaitLog(`msg="not connected" cause="dhcp: no lease within 3[0-9.]+s \(.*127\.0\.0\.1 is not an address for a host\)`, 60*time.Second)
	change(func(r *dhcpv4.DHCPv4) [][]byte { return append(nonsense(r), good(r)) })
	c.WaitLog(`lease acquired" address=10\.200\.0\.60/24`, upTime)
	c.WaitUp()
	c.Terminate()
	w.sameHost(t, before)
}

// Proves that a signal ends the program at once and well whatever it waits for, and
// that the host is as before, also when the tunnel is down and its address is not.
func TestTAPSignalEndsEveryWait(t *testing.T) {
	t.Parallel()
	needTool(t, "nft", "nftables")
	const deafPort = "10444"
	w := newWorldWithoutDHCP(t)
	m := w.startMiddlebox()
	w.cli.IP("route", "add", "default", "via", serverAddress, "metric", "100")
	w.srv.ns.NFT(`table ip deaf {
		counter dropped { }
		chain input { type filter hook input priority 0
			tcp dport ` + deafPort + ` counter name dropped drop
		}
	}`)
	deaf := func() bool {
		return !strings.Contains(w.srv.ns.output("nft", "reset", "counter", "ip", "deaf", "dropped"), "packets 0 ")
	}
	before := w.hostState()
	var held int64
	for _, row := range []struct {
		name    string
		flags   flags
		prepare func()
		reach   func(t *testing.T, c *tapClient)
	}{
		{"dialing", flags{"port": deafPort}, func() { deaf() }, func(t *testing.T, _ *tapClient) {
			eventually(t, upTime, "the server is called", is(deaf))
		}},
		{"in the TLS handshake", nil, func() { m.Stall(); held = m.held.Load() }, func(t *testing.T, _ *tapClient) {
			eventually(t, upTime, "the middlebox holds something back", is(func() bool { return m.held.Load() > held }))
		}},
		{"waiting for an address", nil, m.Unstall, func(_ *testing.T, c *tapClient) {
			c.WaitLog("session established", upTime)
		}},
		{"up", nil, func() {
			if w.lan.dhcp == nil {
				w.lan.Dnsmasq(usualLease)
			}
		}, func(_ *testing.T, c *tapClient) { c.WaitUp() }},
		{"in the reconnect delay", flags{"reconnect-delay": "60s"}, func() {}, func(t *testing.T, c *tapClient) {
			c.WaitUp()
			m.Refuse(true)
			defer m.Refuse(false)
			m.Cut()
			c.WaitLog(`retry_in=[0-9]`, upTime)
			if state := w.hostState(); !strings.Contains(state, "default via "+lanGateway+" dev "+tapName) {
				t.Errorf("without the tunnel its routes are gone:\n%s", state)
			}
		}},
	} {
		for _, signal := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
			t.Run(row.name+", "+signal.String(), func(t *testing.T) {
				row.prepare()
				c := w.in(t).StartTAP(fullFlags.with(flags{"port": middleboxPort}).with(row.flags))
				row.reach(t, c)
				c.Signal(signal)
				if got := c.ExitCode(promptly); got != exitStopped {
					t.Errorf("exit code: got %d, want %d", got, exitStopped)
				}
				w.sameHost(t, before)
			})
		}
	}
}

// is makes a condition of a test for eventually.
func is(true func() bool) func() error {
	return func() error {
		if !true() {
			return syscall.EAGAIN
		}
		return nil
	}
}

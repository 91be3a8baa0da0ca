//go:build linux

package integration

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Proves that big transfers arrive whole, each way. Not in parallel with other
// tests: it wants all of the machine.
func TestTAPGibibyteEachWay(t *testing.T) {
	w := newWorld(t)
	c := w.StartTAP(tapFlags)
	c.WaitUp()
	want := sumOf("big", gibibyte)
	for _, row := range []struct{ name, want string }{
		{"down", want},
		{"up", sumOfString(fmt.Sprintf("%d %s", gibibyte, want))},
	} {
		t.Run(row.name, func(t *testing.T) {
			argv := []string{"curl", "--silent", "--show-error", "--fail", "--max-time", "300"}
			if row.name == "down" {
				argv = append(argv, fmt.Sprintf("http://%s/stream/big/%d", lanGateway, int64(gibibyte)))
			} else {
				argv = append(argv, "--upload-file", "-", "http://"+lanGateway+"/sink")
			}
			cmd := w.cli.Command(argv...)
			cmd.Stdin = streamOf("big", gibibyte)
			begun := time.Now()
			if got := sumOfOutput(cmd); got != row.want {
				t.Errorf("sum: got %s, want %s", got, row.want)
			}
			t.Logf("%.2f Gbit/s", gigabits(gibibyte, time.Since(begun)))
		})
	}
}

// sumOfString is what sumOfOutput returns for a program that prints s.
func sumOfString(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// Proves that what is no TCP passes too, both ways and at full length.
func TestTAPCarriesEveryKindOfFrame(t *testing.T) {
	t.Parallel()
	needTool(t, "ping", "iputils-ping")
	w := newWorld(t)
	c := w.StartTAP(tapFlags)
	c.WaitUp()
	t.Run("a ping series without a drop", func(t *testing.T) {
		before := w.cli.linkErrors(t, tapName)
		ping(t, w.cli, "-c", "50", "-i", "0.1", "-W", "5")
		if got := w.cli.linkErrors(t, tapName); got != before {
			t.Errorf("drops and errors of %s: got %+v, before the series they were %+v", tapName, got, before)
		}
	})
	t.Run("pings of 1500 bytes", func(t *testing.T) {
		ping(t, w.cli, "-c", "3", "-M", "do", "-s", "1472", "-W", "5")
		if _, err := pingOutput(w.cli, "-c", "1", "-M", "do", "-s", "1473", "-W", "1"); err == nil {
			t.Error("a ping of 1501 bytes fits unfragmented, so the above says nothing about the longest")
		}
	})
	t.Run("UDP", func(t *testing.T) { checkUDP(t, w) })
	t.Run("multicast", func(t *testing.T) {
		checkMulticast(t, w.lan.ns, "br0", w.cli, tapName)
		checkMulticast(t, w.cli, tapName, w.lan.ns, "br0")
	})
	t.Run("long and tagged frames", func(t *testing.T) { checkFrames(t, w.lan.ns, "br0", w.cli, tapName) })
}

// pingOutput pings the LAN's gateway.
func pingOutput(from *netns, args ...string) (string, error) {
	args = append(append([]string{"ping", "-n", "-q"}, args...), lanGateway)
	return runLimited(from.Command(args...), 60*time.Second)
}

// ping fails the test if one answer is missing.
func ping(t testing.TB, from *netns, args ...string) {
	t.Helper()
	if out, err := pingOutput(from, args...); err != nil || !strings.Contains(out, " 0% packet loss") {
		t.Errorf("ping %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// linkErrors are the kernel's counters of what an interface did not carry.
type linkErrors struct{ RX, TX struct{ Errors, Dropped int } }

func (n *netns) linkErrors(t testing.TB, device string) linkErrors {
	t.Helper()
	var links []struct {
		Stats64 linkErrors
	}
	if err := json.Unmarshal([]byte(n.IP("-j", "-s", "link", "show", "dev", device)), &links); err != nil || len(links) != 1 {
		t.Fatalf("counters of %s: %v, %d interfaces", device, err, len(links))
	}
	return links[0].Stats64
}

// checkUDP compares echoes, and that the kernel cut up what it should and nothing else.
func checkUDP(t *testing.T, w *world) {
	server := w.lan.ns.ListenPacket(lanGateway + ":" + echoPort)
	go echoDatagrams(server)
	client := w.cli.ListenPacket("0.0.0.0:0")
	for _, row := range []struct {
		name      string
		size      int
		discovery int // IP_MTU_DISCOVER
		fragments bool
	}{
		{"one byte", 1, unix.IP_PMTUDISC_DO, false},
		{"1500 bytes with headers, not to be fragmented", 1472, unix.IP_PMTUDISC_DO, false},
		{"8 KiB in fragments", 8 << 10, unix.IP_PMTUDISC_DONT, true},
	} {
		for _, c := range []net.PacketConn{server, client} {
			setsockopt(t, c, func(fd int) error {
				return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, row.discovery)
			})
		}
		before := w.cli.fragments(t)
		sent, _ := io.ReadAll(streamOf(row.name, int64(row.size)))
		eventually(t, 20*time.Second, row.name, func() error {
			if _, err := client.WriteTo(sent, server.LocalAddr()); err != nil {
				t.Fatalf("%s: %v", row.name, err)
			}
			got := make([]byte, len(sent)+1)
			client.SetReadDeadline(time.Now().Add(3 * time.Second))
			n, _, err := client.ReadFrom(got)
			if err == nil && !bytes.Equal(got[:n], sent) {
				err = fmt.Errorf("got %d other bytes", n)
			}
			return err
		})
		if got := w.cli.fragments(t) > before; got != row.fragments {
			t.Errorf("%s: in fragments: got %v, want %v", row.name, got, row.fragments)
		}
	}
}

// echoDatagrams sends back what it gets until its socket is closed.
func echoDatagrams(c net.PacketConn) {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := c.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			c.WriteTo(buf[:n], from)
		}
	}
}

func setsockopt(t testing.TB, c net.PacketConn, set func(fd int) error) {
	t.Helper()
	raw, err := c.(*net.UDPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var result error
	if err := raw.Control(func(fd uintptr) { result = set(int(fd)) }); err != nil || result != nil {
		t.Fatalf("socket option: %v, %v", err, result)
	}
}

// fragments counts the fragments that the namespace's kernel has made.
func (n *netns) fragments(t testing.TB) int {
	t.Helper()
	var text []byte
	if err := n.do(func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/snmp")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	names, values := strings.Fields(lines[0]), strings.Fields(lines[1])
	count, err := strconv.Atoi(values[slices.Index(names, "FragCreates")])
	if err != nil {
		t.Fatal(err)
	}
	return count
}

// checkMulticast sends to a group by one interface until a member on another hears it.
func checkMulticast(t *testing.T, from *netns, fromDevice string, to *netns, toDevice string) {
	t.Helper()
	group := &net.UDPAddr{IP: net.IPv4(239, 1, 2, 3), Port: 5007}
	var member *net.UDPConn
	if err := to.do(func() error {
		device, err := net.InterfaceByName(toDevice)
		if err == nil {
			member, err = net.ListenMulticastUDP("udp4", device, group)
		}
		return err
	}); err != nil {
		t.Fatalf("join %v on %s: %v", group, toDevice, err)
	}
	defer member.Close()
	sender := from.ListenPacket("0.0.0.0:0")
	setsockopt(t, sender, func(fd int) error {
		return unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(from.index(t, fromDevice))})
	})
	checkHeard(t, sender, group, member)
}

// checkHeard sends until the listener hears it.
func checkHeard(t *testing.T, sender net.PacketConn, to net.Addr, listener net.PacketConn) {
	t.Helper()
	text := "from " + sender.LocalAddr().String()
	eventually(t, 20*time.Second, "what is sent to "+to.String()+" is heard", func() error {
		if _, err := sender.WriteTo([]byte(text), to); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 100)
		listener.SetReadDeadline(time.Now().Add(2 * time.Second))
		n, _, err := listener.ReadFrom(got)
		if err == nil && string(got[:n]) != text {
			err = fmt.Errorf("got %q", got[:n])
		}
		return err
	})
}

func (n *netns) index(t testing.TB, device string) int {
	t.Helper()
	var index int
	if err := n.do(func() error {
		d, err := net.InterfaceByName(device)
		if err == nil {
			index = d.Index
		}
		return err
	}); err != nil {
		t.Fatalf("%s: %v", device, err)
	}
	return index
}

// checkFrames sends frames of no IP between two interfaces, both ways. The real
// server's hub and its TAP pass tags as they are.
func checkFrames(t *testing.T, a *netns, aDevice string, b *netns, bDevice string) {
	t.Helper()
	far, near := openRaw(t, a, aDevice), openRaw(t, b, bDevice)
	const tag5, tag7 = "\x81\x00\xa0\x05", "\x81\x00\x00\x07" // VLAN 5 with priority 5, VLAN 7
	for _, row := range []struct {
		name, tags string
		payload    int
	}{
		{"1500 bytes in 1514", "", 1500},
		{"tagged, short", tag5, 46},
		{"tagged, 1500 bytes in 1518", tag5, 1500},
		{"twice tagged, 1518", tag5 + tag7, 1496},
	} {
		payload, _ := io.ReadAll(streamOf(row.name, int64(row.payload)))
		rest := row.tags + "\x88\xb5" /* for experiments, IEEE 802 */ + string(payload)
		far.send(t, near, rest)
		near.send(t, far, rest)
	}
}

// A rawSocket sends and receives whole frames on an interface.
type rawSocket struct {
	fd   int
	name string
	mac  net.HardwareAddr
}

func openRaw(t testing.TB, n *netns, device string) *rawSocket {
	t.Helper()
	r := &rawSocket{name: device}
	if err := n.do(func() error {
		d, err := net.InterfaceByName(device)
		if err != nil {
			return err
		}
		r.mac = d.HardwareAddr
		const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8 // in network order
		if r.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all&0xffff); err != nil {
			return err
		}
		t.Cleanup(func() { unix.Close(r.fd) })
		if err := unix.Bind(r.fd, &unix.SockaddrLinklayer{Protocol: all & 0xffff, Ifindex: d.Index}); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1); err != nil {
			return err
		}
		return unix.SetsockoptTimeval(r.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1})
	}); err != nil {
		t.Fatalf("raw socket on %s: %v", device, err)
	}
	return r
}

// send sends a frame to another socket's interface and waits until it is there. What
// follows the addresses is given.
func (r *rawSocket) send(t testing.TB, to *rawSocket, rest string) {
	t.Helper()
	frame := slices.Concat(to.mac, r.mac, []byte(rest))
	what := fmt.Sprintf("%d bytes from %s to %s", len(frame), r.name, to.name)
	eventually(t, 20*time.Second, what, func() error {
		if _, err := unix.Write(r.fd, frame); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		for {
			got, err := to.receive()
			if err != nil || bytes.Equal(got, frame) {
				return err
			}
		}
	})
}

// receive returns the next frame. The kernel keeps the outer tag of a frame beside
// it; it is put back.
func (r *rawSocket) receive() ([]byte, error) {
	frame, control := make([]byte, 2000), make([]byte, 200)
	n, controlLen, _, _, err := unix.Recvmsg(r.fd, frame, control, 0)
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(control[:controlLen])
	if err != nil {
		return nil, err
	}
	frame = frame[:n]
	for _, m := range messages {
		var aux unix.TpacketAuxdata
		if m.Header.Type != unix.PACKET_AUXDATA {
			continue
		}
		if _, err := binary.Decode(m.Data, binary.NativeEndian, &aux); err != nil {
			return nil, err
		}
		if aux.Status&unix.TP_STATUS_VLAN_VALID != 0 {
			tag := binary.BigEndian.AppendUint16(nil, aux.Vlan_tpid)
			frame = slices.Insert(frame, 12, binary.BigEndian.AppendUint16(tag, aux.Vlan_tci)...)
		}
	}
	return frame, nil
}

// Proves that transfers that never pause, up alone and both ways, are whole after the
// server has gone three times.
func TestTAPTransfersSurviveThreeRestarts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.StartTAP(tapFlags.with(flags{"reconnect-max-delay": "1s"}))
	c.WaitUp()
	up, both := w.startUpload(), w.startEchoed()
	for i, end := range []func(){w.srv.Stop, w.srv.Kill, w.srv.Stop} {
		both.WaitProgress(recoverTime)
		seen := len(c.Log())
		end()
		w.srv.Start()
		w.lan.Attach()
		c.WaitLogAfter(seen, "tunnel up", recoverTime)
		t.Logf("restart %d: %d bytes up, %d echoed", i+1, up.sent.count.Load(), both.received.count.Load())
	}
	both.WaitProgress(recoverTime)
	both.Check()
	up.Check()
}

// A flow reads as random bytes at a moderate rate until it is stopped.
type flow struct {
	source  io.Reader
	stopped atomic.Bool
	hash    hash.Hash // of what was read
	count   atomic.Int64
}

func newFlow(name string) *flow {
	return &flow{source: rand.NewChaCha8(sha256.Sum256([]byte(name))), hash: sha256.New()}
}

func (f *flow) Read(p []byte) (int, error) {
	if f.stopped.Load() {
		return 0, io.EOF
	}
	time.Sleep(10 * time.Millisecond) // what makes the rate moderate
	n, err := f.source.Read(p[:min(len(p), 32<<10)])
	f.Write(p[:n])
	return n, err
}

// Write counts and sums up.
func (f *flow) Write(p []byte) (int, error) {
	f.count.Add(int64(len(p)))
	return f.hash.Write(p)
}

func (f *flow) summary() string { return fmt.Sprintf("%d %x", f.count.Load(), f.hash.Sum(nil)) }

// An upload goes on until Check.
type upload struct {
	t    testing.TB
	sent *flow
	cmd  *exec.Cmd
	got  bytes.Buffer
	done chan error // one value
}

func (w *world) startUpload() *upload {
	w.t.Helper()
	u := &upload{t: w.t, sent: newFlow("up"), done: make(chan error, 1)}
	u.cmd = w.cli.Command("curl", "--silent", "--show-error", "--fail", "--upload-file", "-", "http://"+lanGateway+"/sink")
	u.cmd.Stdin, u.cmd.Stdout, u.cmd.Stderr = u.sent, &u.got, &u.got
	if err := u.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { u.cmd.Process.Kill() })
	go func() { u.done <- u.cmd.Wait() }()
	return u
}

// Check ends the upload and compares what the site received.
func (u *upload) Check() {
	u.t.Helper()
	u.sent.stopped.Store(true)
	select {
	case err := <-u.done:
		if got, want := u.got.String(), u.sent.summary(); err != nil || got != want {
			u.t.Errorf("the site received: got %q, %v, want %q", got, err, want)
		}
	case <-time.After(recoverTime):
		u.t.Errorf("the upload has not ended within %v", recoverTime)
	}
}

// An echoed is a connection that is full both ways until Check.
type echoed struct {
	t              testing.TB
	sent, received *flow
	done           chan error // one value for each direction
}

func (w *world) startEchoed() *echoed {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := w.cli.Dial(ctx, net.JoinHostPort(lanGateway, echoPort))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	e := &echoed{t: w.t, sent: newFlow("both"), received: newFlow(""), done: make(chan error, 2)}
	go func() {
		_, err := io.Copy(onlyWriter{conn}, e.sent)
		conn.(*net.TCPConn).CloseWrite()
		e.done <- err
	}()
	go func() {
		_, err := io.Copy(e.received, conn)
		e.done <- err
	}()
	return e
}

// WaitProgress waits until another MiB is back.
func (e *echoed) WaitProgress(within time.Duration) {
	e.t.Helper()
	begun := e.received.count.Load()
	eventually(e.t, within, "another MiB comes back", func() error {
		if got := e.received.count.Load() - begun; got < 1<<20 {
			return fmt.Errorf("got %d bytes", got)
		}
		return nil
	})
}

// Check ends the connection and compares what came back.
func (e *echoed) Check() {
	e.t.Helper()
	e.sent.stopped.Store(true)
	limit := time.After(recoverTime)
	for range cap(e.done) {
		select {
		case err := <-e.done:
			if err != nil {
				e.t.Errorf("echo: %v", err)
			}
		case <-limit:
			e.t.Fatalf("the echo has not ended within %v", recoverTime)
		}
	}
	if got, want := e.received.summary(), e.sent.summary(); got != want {
		e.t.Errorf("echo: got %q, want %q", got, want)
	}
}

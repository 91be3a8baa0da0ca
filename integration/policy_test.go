//go:build linux

package integration

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Proves that what the administrator allows a user is shown, and that it explains what
// fails by it, as the real server enforces it.
func TestPoliciesExplainFaults(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	end := func(c *client) {
		t.Helper()
		sessions := w.srv.Sessions(userName)
		c.Signal(os.Interrupt)
		<-c.done
		for _, s := range sessions {
			w.srv.Disconnect(s)
		}
	}
	w.srv.Policy(userName, "MaxUpload", "8000000")
	w.srv.Policy(userName, "NoServer", "yes")
	c := w.StartClient(usualFlags)
	c.WaitUp()
	for _, want := range []string{"MaxUpload: at most 8 Mbit/s to the hub", "NoServer: nobody can connect to this end"} {
		if !strings.Contains(c.Log(), want) {
			t.Errorf("the log has no %q:\n%s", want, c.Log())
		}
	}
	// The limit is real: so much takes 2 s at least.
	const size = 3 << 20
	begun := time.Now()
	up := w.cli.Command("curl", "--silent", "--show-error", "--fail", "--max-time", "60", "--proxy", w.proxy, "--upload-file", "-", "http://"+siteName+"/sink")
	up.Stdin = streamOf("up", size)
	if out, err := up.Output(); err != nil || !strings.Contains(string(out), sumOf("up", size)) {
		t.Errorf("the site received %q, %v", out, err)
	}
	if took := time.Since(begun); took < 2*time.Second {
		t.Errorf("%d bytes went up in %v: the policy does not limit it", size, took)
	}
	end(c)
	w.srv.Policy(userName, "MaxUpload", "0")

	w.srv.Policy(userName, "DHCPFilter", "yes")
	c = w.StartClient(usualFlags)
	c.WaitLog("not connected.*no address by DHCP: the user's policy has DHCPFilter", upTime)
	end(c)
	w.srv.Policy(userName, "DHCPFilter", "no")

	// The server leaves it to the client to end the session in time.
	w.srv.Policy(userName, "AutoDisconnect", "3")
	c = w.StartClient(usualFlags)
	if got := c.ExitCode(upTime); got != exitRefused {
		t.Errorf("after the time of AutoDisconnect: exit code %d, want %d", got, exitRefused)
	}
	if !regexp.MustCompile("session with .* 3s have passed: the user's policy has AutoDisconnect").MatchString(c.Log()) {
		t.Errorf("the log does not say that AutoDisconnect has ended it:\n%s", c.Log())
	}
	w.srv.Policy(userName, "AutoDisconnect", "0")

	w.srv.Policy(userName, "VLanId", "7")
	c = w.StartClient(usualFlags)
	c.WaitLog(`put us into a VLAN" id=7`, upTime)
	tagged := openRaw(t, w.lan.ns, "br0")
	eventually(t, 20*time.Second, "the hub tags what we send", func() error {
		if !tagged.hears(func(f []byte, vlan int) bool { return vlan == 7 }) {
			return fmt.Errorf("no frame of VLAN 7")
		}
		return nil
	})
	end(c)
}

// hears reports whether a frame comes within a second that match likes.
func (r *rawSocket) hears(match func(f []byte, vlan int) bool) bool {
	buf, oob := make([]byte, 4096), make([]byte, 256)
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		n, control, _, _, err := unix.Recvmsg(r.fd, buf, oob, 0)
		if err != nil {
			continue
		}
		vlan := 0
		if messages, err := unix.ParseSocketControlMessage(oob[:control]); err == nil && len(messages) > 0 && len(messages[0].Data) >= 20 {
			// struct tpacket_auxdata: status, lengths, offsets, and the VLAN's tag at 16
			d := messages[0].Data
			if d[0]&unix.TP_STATUS_VLAN_VALID != 0 {
				vlan = int(d[16]) | int(d[17]&0xf)<<8
			}
		}
		if vlan == 0 && n > 16 && buf[12] == 0x81 && buf[13] == 0 {
			vlan = int(buf[14]&0xf)<<8 | int(buf[15])
		}
		if match(buf[:n], vlan) {
			return true
		}
	}
	return false
}

// Proves that in monitoring mode the interface shows the frames of others as they are,
// that nothing is sent and no address taken, and that who may not is told so.
func TestTAPMonitorSeesAndSaysNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	f := tapFlags.with(flags{"monitor": "true", "mac": "5e:00:53:00:00:77"})
	denied := w.StartTAP(f)
	if got := denied.ExitCode(upTime); got != exitRefused || !strings.Contains(lastLines(denied.Log(), 1), "MonitorPort") {
		t.Errorf("exit code %d, want %d; the last line is %q", got, exitRefused, lastLines(denied.Log(), 1))
	}
	w.srv.Policy(userName, "MonitorPort", "yes")
	c := w.StartTAP(f)
	c.WaitLog("tunnel up", upTime)
	other := *w
	other.proxy = "socks5h://" + socksProxy
	guest := other.StartClient(usualFlags.with(flags{"user": guestName, "pass": absent, "anonymous": "true", "mac": "5e:00:53:00:00:88"}))
	guest.WaitUp()

	ear := openRaw(t, w.cli, tapName)
	w.cli.Command("ping", "-c", "2", "-W", "1", "-I", tapName, lanGateway).Run() // goes nowhere
	stranger := net.HardwareAddr{0x5e, 0, 0x53, 0, 0, 0x88}
	for what, match := range map[string]func(f []byte, _ int) bool{
		"a frame from another's session": func(f []byte, _ int) bool { return bytes.Equal(f[6:12], stranger) && f[12] == 8 && f[13] == 0 },
		"a frame to it":                  func(f []byte, _ int) bool { return bytes.Equal(f[:6], stranger) && f[12] == 8 && f[13] == 0 },
	} {
		eventually(t, 20*time.Second, what+" shows", func() error {
			go other.Curl("--proxy", other.proxy, "--max-time", "3", "http://"+lanGateway+"/")
			if !ear.hears(match) {
				return fmt.Errorf("none")
			}
			return nil
		})
	}
	if got := w.cli.output("ip", "-o", "address", "show", "dev", tapName); strings.TrimSpace(got) != "" {
		t.Errorf("the interface has an address: %s", got)
	}
	if table := w.srv.Hub("MacTable"); strings.Contains(table, "5E-00-53-00-00-77") || !strings.Contains(table, "5E-00-53-00-00-88") {
		t.Errorf("the hub is to know the other's address and not ours:\n%s", table)
	}
	c.Terminate()
}

//go:build linux

package integration

import (
	"fmt"
	"testing"
	"time"
)

const (
	clientBinary    = "/usr/libexec/softether/vpnclient/vpnclient"
	officialDevice  = "vpn_v1"
	officialAddress = "10.200.0.9/24" // outside the range of the LAN's DHCP
)

// An official is SoftEther's own client in a namespace.
type official struct {
	t    testing.TB
	ns   *netns
	proc *process
}

// startOfficial starts the service and gives it a TAP. The service reads no
// address from DHCP; the test sets one.
func startOfficial(t testing.TB, ns *netns) *official {
	t.Helper()
	needTool(t, clientBinary, "softether-vpnclient")
	o := &official{t: t, ns: ns}
	o.proc = start(t, "vpnclient", ns.Command("sh", "-c", softetherSandbox, "sh", softetherState(t, ns), clientBinary))
	eventually(t, 20*time.Second, "vpnclient listens", func() error {
		out, err := runLimited(ns.Command("vpncmd", "localhost", "/CLIENT", "/CMD", "NicList"), 5*time.Second)
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	o.Admin("NicCreate v1")
	return o
}

// Admin runs lines of vpncmd on the client's service.
func (o *official) Admin(lines ...string) string {
	o.t.Helper()
	return vpncmd(o.t, o.ns, []string{"localhost", "/CLIENT"}, lines...)
}

// Connect logs in over one TLS connection, waits for the session and sets an
// address with its prefix length.
func (o *official) Connect(server, hub, password, address string) {
	o.t.Helper()
	o.connect(server, hub, password, address, "/DISABLEUDP:yes")
}

// ConnectUDP is Connect with UDP acceleration, to which it moves some 12 s later.
func (o *official) ConnectUDP(server, hub, password, address string) {
	o.t.Helper()
	o.connect(server, hub, password, address, "/DISABLEUDP:no")
}

func (o *official) connect(server, hub, password, address, udp string) {
	o.t.Helper()
	o.Admin(
		"AccountCreate c1 /SERVER:"+server+" /HUB:"+hub+" /USERNAME:"+userName+" /NICNAME:v1",
		`AccountPasswordSet c1 /PASSWORD:"`+password+`" /TYPE:standard`,
		"AccountDetailSet c1 /MAXTCP:1 /INTERVAL:1 /TTL:0 /HALF:no /BRIDGE:no /MONITOR:no /NOTRACK:yes /NOQOS:no "+udp,
		"AccountConnect c1")
	eventually(o.t, 20*time.Second, "the official client is connected", func() error {
		for _, row := range table(o.t, o.Admin("AccountList"), "VPN Connection Setting Name") {
			if row["Status"] == "Connected" {
				return nil
			}
		}
		return fmt.Errorf("not connected")
	})
	o.ns.IP("address", "add", address, "dev", officialDevice)
	o.ns.IP("link", "set", officialDevice, "up")
}

//go:build linux

package integration

import (
	"net"
	"strings"
	"testing"
	"time"
)

// Proves the first thing: the machine's own programs reach what is behind the hub,
// and the interface is as asked for.
func TestTAPCarriesTheMachinesTraffic(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := w.pageFrom(lanGateway); err == nil {
		t.Fatal("the site is reached without the tunnel, so nothing below would mean a thing")
	}
	const mac = "5e:00:53:00:00:07"
	c := w.StartTAP(tapFlags.with(flags{"mac": mac}))
	c.WaitUp()
	needTool(t, "ping", "iputils-ping")
	command(t, "ip", "netns", "exec", w.cli.name, "ping", "-c", "2", "-W", "2", lanGateway)
	for what, text := range map[string]string{
		"interface":   w.cli.IP("link", "show", "dev", tapName),
		"DHCP server": w.lan.dhcp.Log(),
	} {
		if !strings.Contains(text, mac) {
			t.Errorf("%s knows nothing of %s:\n%s", what, mac, text)
		}
	}
	w.dialEcho().Check(5 * time.Second)
	d := w.startGated("small", 16<<20)
	w.lan.site.Open(d.name)
	d.Check(time.Minute)
}

// Proves that the TAP, its address and its connections outlive the server.
func TestTAPConnectionsSurviveFaults(t *testing.T) {
	for _, f := range faults {
		switch f.name {
		case "server stopped and started", "server killed and started", "connection reset", "stall until the client gives up":
		default:
			continue // the session's affair, not that of the local end
		}
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			m := w.startMiddlebox()
			c := w.StartTAP(tapFlags.with(flags{"port": middleboxPort, "reconnect-max-delay": "2s"}))
			c.WaitUp()
			inner := w.dialEcho()
			inner.Check(5 * time.Second)
			local := inner.LocalAddr().(*net.TCPAddr).IP
			d := w.startGated("slow", 8<<20)

			seen := len(c.Log())
			f.do(t, w, m)
			w.lan.site.Open(d.name)
			c.WaitLogAfter(seen, upAgain, recoverTime)
			inner.Check(recoverTime)
			d.Check(recoverTime)
			if again := w.dialEcho().LocalAddr().(*net.TCPAddr).IP; !again.Equal(local) {
				t.Errorf("address after the fault: got %v, want %v", again, local)
			}
		})
	}
}

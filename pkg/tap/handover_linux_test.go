package tap

import (
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

func TestAnotherProcessCarriesOnWithTheInterface(t *testing.T) {
	maker := openUp(t)
	setAddress(t, "vpn0", "10.77.0.1")
	conn, err := net.ListenPacket("udp4", "10.77.0.1:5000")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	host := newWire(t, maker.Index())

	file, h, err := maker.Handover()
	if err != nil {
		t.Fatal(err)
	}
	d, err := Adopt(file, h, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	if err := maker.Close(); err != nil { // which does not take the interface along
		t.Fatal(err)
	}
	if d.Name() != "vpn0" || d.Index() != h.Index || d.MAC().String() != h.MAC.String() || d.Offload() != maker.Offload() {
		t.Errorf("adopted %s, index %d, MAC %v, %+v; want as in %+v", d.Name(), d.Index(), d.MAC(), d.Offload(), h)
	}
	r := start(t, d)
	host.send(numbered(1, 100))
	same(t, r.frames(1)[0], numbered(1, 100))
	if err := d.WriteFrames([][]byte{datagram(d.MAC(), "10.77.0.9", "10.77.0.1", "carried on")}); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	conn.SetReadDeadline(time.Now().Add(patience))
	if n, _, err := conn.ReadFrom(b); string(b[:n]) != "carried on" {
		t.Errorf("the socket received %q, %v", b[:n], err)
	}
}

func TestAdoptRefusesWhatIsNoSuchInterface(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Adopt(null, Handover{Name: "vpn0"}, nil); err == nil {
		t.Error("took /dev/null for an interface")
	}
	maker := openUp(t)
	file, h, err := maker.Handover()
	if err != nil {
		t.Fatal(err)
	}
	h.Headers = !h.Headers
	if _, err := Adopt(file, h, nil); err == nil || !strings.Contains(err.Error(), "another kind") {
		t.Errorf("headers that are not there: got %v", err)
	}
}

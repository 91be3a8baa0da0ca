package binding

import (
	"net/netip"
	"testing"
)

func TestOwnAddressesAreThoseOfInterfaces(t *testing.T) {
	for address, want := range map[string]string{"127.0.0.1": "127.0.0.0/8", "::ffff:127.0.0.1": "127.0.0.0/8", "192.0.2.1": "invalid Prefix"} {
		p, ok := OwnNetwork(netip.MustParseAddr(address))
		if p.String() != want || ok != p.IsValid() {
			t.Errorf("%s: got %v, %v; want %s", address, p, ok, want)
		}
	}
}

func TestOwnAddressesAreAskedForSeldom(t *testing.T) {
	a := netip.MustParseAddr("127.0.0.1")
	OwnNetwork(a)
	if got := testing.AllocsPerRun(100, func() { OwnNetwork(a) }); got >= 1 { // once a second some
		t.Errorf("got %v allocations", got)
	}
}

package client

import (
	"bytes"
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"softether-go/pkg/frame"
	"softether-go/pkg/frame/frametest"
	"softether-go/pkg/netcfg"
	"softether-go/pkg/session/sessiontest"
	"softether-go/pkg/wire"
)

// asBridge makes the client one that has no address and whose endpoint is a network.
func asBridge(c *Config) {
	c.Session.Bridge = true
	c.Static, c.Configurer = netcfg.Config{}, nil
}

// others returns frames of stations that are not this one: of many addresses, as long
// as they may be, tagged, and the DHCP of somebody else.
func others() [][]byte {
	everyone := bytes.Repeat([]byte{0xff}, 6)
	var all [][]byte
	for n := range byte(20) {
		from := net.HardwareAddr{0x52, 0x54, 0, 0, 0, n}
		all = append(all, frametest.Frame(net.HardwareAddr{0x52, 0x54, 0, 0, 1, n}, from, frame.TypeIPv4, bytes.Repeat([]byte{n}, 1500)))
	}
	from := net.HardwareAddr{0x52, 0x54, 0, 0, 2, 0}
	tagged := append([]byte{0, 7, frame.TypeIPv4 >> 8, frame.TypeIPv4 & 0xff}, bytes.Repeat([]byte{7}, 1500)...)
	all = append(all, frametest.Frame(everyone, from, frame.TypeVLAN, tagged))
	for _, ports := range [][]byte{{0, 68, 0, 67}, {0, 67, 0, 68}} { // a client's, a server's
		packet := make([]byte, 20+8+300)
		copy(packet, []byte{0x45, 0, 328 >> 8, 328 & 0xff, 0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255})
		copy(packet[20:], ports)
		all = append(all, frametest.Frame(everyone, from, frame.TypeIPv4, packet))
	}
	return all
}

// What belongs to other stations passes both ways, in this session and the next.
func TestABridgeCarriesEveryFrameOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		frames := others()
		batch, bad := wire.AppendBatch(nil, frames)
		if bad != 0 {
			t.Fatalf("%d frames cannot travel", bad)
		}
		var heard [2][][]byte
		w := newWorld(t, asBridge, func(n int, p *sessiontest.Peer) {
			p.Accept()
			p.Write(batch)
			for parser := wire.NewParser(nil); len(heard[n-1]) < len(frames); {
				got, _, err := parser.Next(p)
				if err != nil {
					return
				}
				for _, f := range got {
					heard[n-1] = append(heard[n-1], slices.Clone(f))
				}
			}
			if n == 2 {
				p.Discard()
			} // else cut
		})
		w.endpoint.Send(frames...)
		time.AfterFunc(15*time.Second, func() { w.endpoint.Send(frames...) })
		if err := w.run(19 * time.Second); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Run: %v", err)
		}
		for n, got := range heard {
			if diff := cmp.Diff(frames, got); diff != "" {
				t.Errorf("outbound in session %d (-want +got):\n%s", n+1, diff)
			}
		}
		if diff := cmp.Diff(slices.Concat(frames, frames), w.endpoint.Received(t.Context(), 2*len(frames))); diff != "" {
			t.Errorf("inbound (-want +got):\n%s", diff)
		}
		w.wantTrail("Dialing Configuring Up Waiting Dialing Configuring Up Stopped")
	})
}

func TestABridgeIsAskedForAndAppliesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		var asked bool
		w := newWorld(t, func(c *Config) {
			configurer := c.Configurer
			asBridge(c)
			c.Configurer, c.Log = configurer, logTo(&log)
		}, func(_ int, p *sessiontest.Peer) {
			asked = p.Greet().Bool("require_bridge_routing_mode")
			p.Reply(sessiontest.Welcome().Pack())
			p.Discard()
		})
		w.run(10 * time.Second)
		if !asked {
			t.Error("the server was not asked for bridge mode")
		}
		if len(w.applied) > 0 {
			t.Errorf("applied %v", w.applied)
		}
		for want, times := range map[string]int{"without an address": 1, "tunnel up": 1, "invalid": 0, "limits the bridge": 0} {
			if got := strings.Count(log.String(), want); got != times {
				t.Errorf("the log says %q %d times, want %d:\n%s", want, got, times, log.String())
			}
		}
	})
}

func TestABridgeThatThePolicyLimitsIsWarned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		w := newWorld(t, func(c *Config) { asBridge(c); c.Log = logTo(&log) }, func(_ int, p *sessiontest.Peer) {
			p.Greet()
			welcome := sessiontest.Welcome()
			welcome.Policy = wire.Policy{{Name: "NoBridge", Value: 1}, {Name: "MaxIP", Value: 9}}
			p.Reply(welcome.Pack())
			p.Discard()
		})
		w.run(time.Second)
		w.wantTrail("Dialing Configuring Up Stopped")
		if want := `level=WARN msg="the user's policy limits the bridge`; !strings.Contains(log.String(), want) ||
			!strings.Contains(log.String(), `at_most="3 MAC addresses (NoBridge), 9 IPv4 addresses (MaxIP)"`) {
			t.Errorf("the log does not say so:\n%s", log.String())
		}
	})
}

func TestABridgeThatIsDeniedEndsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, asBridge, func(_ int, p *sessiontest.Peer) { p.Greet(); p.Reply(wire.Refusal(wire.CodeBridgeDenied)) })
		if err := w.run(time.Hour); !errors.Is(err, wire.CodeBridgeDenied) || !strings.Contains(err.Error(), "-bridge") {
			t.Errorf("Run: %v", err)
		}
		w.wantTrail("Dialing Stopped")
	})
}

func TestLimitsOfABridge(t *testing.T) {
	for _, row := range []struct {
		policy wire.Policy
		want   string
	}{
		{nil, ""},
		{wire.Policy{{Name: "Access", Value: 1}, {Name: "MaxConnection", Value: 32}}, ""},
		{wire.Policy{{Name: "NoBridge", Value: 1}, {Name: "MaxMac", Value: 50}}, "3 MAC addresses (NoBridge)"},
		{wire.Policy{{Name: "MaxMac", Value: 1}}, "3 MAC addresses (MaxMac)"},
		{wire.Policy{{Name: "NoRouting", Value: 1}}, "4 IPv4 addresses (NoRouting)"},
		{wire.Policy{{Name: "NoRoutingV6", Value: 1}, {Name: "MaxIPv6", Value: 7}}, "7 IPv6 addresses (MaxIPv6)"},
		{wire.Policy{{Name: "NoRoutingV6", Value: 1}, {Name: "MaxIPv6", Value: 99}, {Name: "MaxIP", Value: 100}},
			"100 IPv4 addresses (MaxIP), 15 IPv6 addresses (NoRoutingV6)"},
	} {
		if got := strings.Join(bridgeLimits(row.policy), ", "); got != row.want {
			t.Errorf("%v: got %q, want %q", row.policy, got, row.want)
		}
	}
}

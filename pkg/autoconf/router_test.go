package autoconf

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"softether-go/pkg/inet"
)

const onePrefix = "fe80::*, 2001:db8:1::*, gw fe80::1, route 2001:db8:1::/64"

func TestARouterConfiguresUs(t *testing.T) {
	full := func(n *lan) {
		n.routers = []*testRouter{aRouter(
			mtuOption(1400), dnsOption(time.Hour, "2001:db8:53::1", "fe80::1", "ff02::1"),
			searchOption(time.Hour, "corp.example", "lab"), routeOption("2001:db8:9::/48", time.Hour),
			[]byte{200, 1, 0, 0, 0, 0, 0, 0}, // whatever that may be
		)}
	}
	run(t, nil, full, func(t *testing.T, n *lan) {
		n.wantTrail("PROBE fe80::*, RS from ::")
		n.wantConfig("")
		time.Sleep(latency)
		n.wantTrail("PROBE 2001:db8:1::*")
		time.Sleep(probeTime)
		n.wantConfig(onePrefix + ", route 2001:db8:9::/48 via fe80::1, dns 2001:db8:53::1, dns fe80::1, search corp.example, search lab, mtu 1400")
		time.Sleep(time.Minute)
		n.wantTrail("")
	})
}

func TestSilentRoutersAreAskedAgain(t *testing.T) {
	run(t, nil, nil, func(t *testing.T, n *lan) {
		time.Sleep(10 * time.Second)
		n.wantTrail("PROBE fe80::*, RS from ::, RS from ::, RS from fe80::*, RS from fe80::*") // at 0, 1, 3 and 7 s or so
		n.wantConfig("fe80::*")
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		n.mu.Lock()
		asked := len(n.notes)
		n.notes = nil
		n.mu.Unlock()
		if asked < 20 || asked > 30 {
			t.Errorf("asked %d times in three hours, want about every ten minutes", asked)
		}
		n.hears(aRouter().advert())
		time.Sleep(time.Second)
		n.wantConfig(onePrefix)
		n.wantTrail("PROBE 2001:db8:1::*")
	})
}

func TestAnAddressOfSomebodyElseIsReplaced(t *testing.T) {
	var first, second netip.Addr
	n := newLAN(t, nil)
	first = n.client.opaque(netip.MustParsePrefix("2001:db8:1::/64"), 0)
	second = n.client.opaque(netip.MustParsePrefix("2001:db8:1::/64"), 1)
	if first == second {
		t.Fatal("the same address again")
	}
	prepare := func(n *lan) {
		n.routers = []*testRouter{aRouter()}
		n.taken = func(a netip.Addr) bool { return a == first }
	}
	run(t, nil, prepare, func(t *testing.T, n *lan) {
		time.Sleep(3 * time.Second)
		n.wantTrail("PROBE fe80::*, RS from ::, PROBE 2001:db8:1::*, PROBE 2001:db8:1::*")
		n.wantConfig(onePrefix)
		if got := n.last().IPv6.Addresses[1].Addr; got != second {
			t.Errorf("address: got %v, want %v", got, second)
		}
	})
	prepare = func(n *lan) {
		n.routers = []*testRouter{aRouter()}
		n.taken = func(a netip.Addr) bool { return !a.IsLinkLocalUnicast() }
	}
	run(t, nil, prepare, func(t *testing.T, n *lan) { // somebody who has all of them
		time.Sleep(3 * time.Second)
		n.hears(n.routers[0].advert())
		time.Sleep(time.Minute)
		n.wantTrail("PROBE fe80::*, RS from ::" + strings.Repeat(", PROBE 2001:db8:1::*", maxAttempts))
		n.wantConfig("fe80::*, gw fe80::1, route 2001:db8:1::/64")
	})
	prepare = func(n *lan) {
		n.routers = []*testRouter{aRouter()}
		n.taken = func(a netip.Addr) bool { return true }
	}
	run(t, nil, prepare, func(t *testing.T, n *lan) {
		time.Sleep(time.Minute)
		n.wantConfig("")
	})
}

// Another's probe for the address that we probe means that both want it.
func TestAProbeAtTheSameTimeIsAConflict(t *testing.T) {
	run(t, nil, nil, func(t *testing.T, n *lan) {
		time.Sleep(latency)
		n.hears(probe(ourMAC, n.client.opaque(linkLocal, 0))) // our own, come back
		n.wantTrail("PROBE fe80::*, RS from ::")
		n.hears(probe(otherMAC, n.client.opaque(linkLocal, 0)))
		n.wantTrail("PROBE fe80::*")
		time.Sleep(2 * time.Second)
		if got, want := n.last().IPv6.Addresses[0].Addr, n.client.opaque(linkLocal, 1); got != want {
			t.Errorf("address: got %v, want %v", got, want)
		}
	})
}

func TestLifetimesEnd(t *testing.T) {
	prepare := func(n *lan) {
		n.routers = []*testRouter{aRouter(dnsOption(time.Hour, "2001:db8:53::1"), searchOption(90*time.Minute, "corp"),
			routeOption("2001:db8:9::/48", 2*time.Hour))}
	}
	run(t, nil, prepare, func(t *testing.T, n *lan) {
		const rest = ", gw fe80::1, route 2001:db8:1::/64, route 2001:db8:9::/48 via fe80::1, dns 2001:db8:53::1, search corp"
		time.Sleep(2 * time.Second)
		n.wantConfig("fe80::*, 2001:db8:1::*" + rest)
		n.change(func() { n.routers[0].silent = true; n.notes = nil })
		time.Sleep(30 * time.Minute)
		n.wantConfig("fe80::*, 2001:db8:1::*" + strings.TrimPrefix(rest, ", gw fe80::1"))
		n.mu.Lock()
		if len(n.notes) == 0 || n.notes[0] != "RS from fe80::*" {
			t.Errorf("without a router: sent %v, want solicitations", n.notes)
		}
		n.mu.Unlock()
		time.Sleep(30 * time.Minute)
		n.wantConfig("fe80::*, 2001:db8:1::*, route 2001:db8:1::/64, route 2001:db8:9::/48 via fe80::1, search corp")
		time.Sleep(30 * time.Minute)
		n.wantConfig("fe80::*, 2001:db8:1::*, route 2001:db8:1::/64, route 2001:db8:9::/48 via fe80::1")
		time.Sleep(30 * time.Minute)
		n.wantConfig("fe80::*, 2001:db8:1::*, route 2001:db8:1::/64")
		time.Sleep(2 * time.Hour)
		n.wantConfig("fe80::*, ~2001:db8:1::*, route 2001:db8:1::/64")
		time.Sleep(20 * time.Hour)
		n.wantConfig("fe80::*")
	})
}

func TestRenumbering(t *testing.T) {
	run(t, nil, func(n *lan) { n.routers = []*testRouter{aRouter()} }, func(t *testing.T, n *lan) {
		time.Sleep(2 * time.Second)
		n.wantConfig(onePrefix)
		r := aRouter()
		r.options = [][]byte{prefixOption("2001:db8:1::/64", 0, 0), prefixOption("2001:db8:2::/64", 24*time.Hour, 4*time.Hour)}
		n.change(func() { n.routers[0] = r })
		n.hears(r.advert())
		n.wantConfig("fe80::*, ~2001:db8:1::*, gw fe80::1, route 2001:db8:2::/64")
		time.Sleep(2 * time.Second)
		n.wantConfig("fe80::*, ~2001:db8:1::*, 2001:db8:2::*, gw fe80::1, route 2001:db8:2::/64")
		time.Sleep(shortest - 10*time.Second)
		n.hears(r.advert()) // which does not cut it further, nor prolong it
		time.Sleep(9 * time.Second)
		n.wantConfig("fe80::*, 2001:db8:2::*, gw fe80::1, route 2001:db8:2::/64")
	})
}

func TestAPrefixIsProlonged(t *testing.T) {
	run(t, nil, func(n *lan) { n.routers = []*testRouter{aRouter()} }, func(t *testing.T, n *lan) {
		for range 10 {
			time.Sleep(3 * time.Hour)
			n.hears(aRouter().advert())
		}
		n.wantConfig(onePrefix)
	})
}

func TestRoutersComeAndGo(t *testing.T) {
	second := &testRouter{addr: secondLL, mac: otherMAC, header: routerHeader(time.Hour, "high")}
	run(t, nil, func(n *lan) { n.routers = []*testRouter{aRouter()} }, func(t *testing.T, n *lan) {
		time.Sleep(2 * time.Second)
		n.hears(second.advert())
		n.wantConfig("fe80::*, 2001:db8:1::*, gw fe80::2, gw fe80::1, route 2001:db8:1::/64")
		low := *second
		low.header = routerHeader(time.Hour, "low")
		n.hears(low.advert())
		n.wantConfig("fe80::*, 2001:db8:1::*, gw fe80::1, gw fe80::2, route 2001:db8:1::/64")
		gone := aRouter()
		gone.header = routerHeader(0, "")
		n.hears(gone.advert())
		n.wantConfig("fe80::*, 2001:db8:1::*, gw fe80::2, route 2001:db8:1::/64")
	})
}

// Reconnecting to the same network changes nothing, not even while nobody answers.
func TestAnAddressSurvivesSessions(t *testing.T) {
	run(t, nil, func(n *lan) { n.routers = []*testRouter{aRouter()} }, func(t *testing.T, n *lan) {
		time.Sleep(2 * time.Second)
		n.wantTrail("PROBE fe80::*, RS from ::, PROBE 2001:db8:1::*")
		before := n.last().IPv6
		for _, silent := range []bool{false, true} {
			n.end()
			time.Sleep(time.Minute)
			n.change(func() { n.told = nil; n.routers[0].silent = silent })
			n.start()
			n.wantConfig(onePrefix)
			n.wantTrail("PROBE fe80::*, PROBE 2001:db8:1::*, RS from fe80::*")
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			n.change(func() {
				n.notes = nil
				if len(n.told) != 1 || !n.told[0].IPv6.Equal(before) {
					t.Errorf("told %v, want %v and no more", n.told, before)
				}
			})
		}
	})
}

// Somebody has taken our address while we were away.
func TestAnAddressIsLostBetweenSessions(t *testing.T) {
	run(t, nil, func(n *lan) { n.routers = []*testRouter{aRouter()} }, func(t *testing.T, n *lan) {
		time.Sleep(2 * time.Second)
		n.end()
		lost := n.last().IPv6.Addresses[1].Addr
		n.change(func() { n.taken = func(a netip.Addr) bool { return a == lost } })
		n.start()
		time.Sleep(latency)
		n.wantConfig("fe80::*, gw fe80::1, route 2001:db8:1::/64")
		time.Sleep(2 * time.Second)
		n.wantConfig(onePrefix)
		if got := n.last().IPv6.Addresses[1].Addr; got == lost {
			t.Errorf("still %v", got)
		}
	})
}

func TestAnotherNetworkIsNoticed(t *testing.T) {
	run(t, nil, func(n *lan) { n.routers = []*testRouter{aRouter(dnsOption(24*time.Hour, "2001:db8:53::1"))} }, func(t *testing.T, n *lan) {
		time.Sleep(2 * time.Second)
		n.wantConfig(onePrefix + ", dns 2001:db8:53::1")
		n.end()
		n.change(func() {
			n.routers = []*testRouter{{addr: secondLL, mac: otherMAC, header: routerHeader(time.Hour, ""),
				options: [][]byte{prefixOption("2001:db8:2::/64", time.Hour, time.Hour)}}}
		})
		n.start()
		time.Sleep(2 * time.Second)
		n.wantConfig("fe80::*, 2001:db8:1::*, 2001:db8:2::*, gw fe80::1, gw fe80::2, route 2001:db8:1::/64, route 2001:db8:2::/64, dns 2001:db8:53::1")
		time.Sleep(patience)
		n.wantConfig("fe80::*, 2001:db8:2::*, gw fe80::2, route 2001:db8:2::/64")
	})
}

func TestAStaticAddressIsProbedAndUsed(t *testing.T) {
	static := func(c *Config) {
		c.Static, c.Gateway = netip.MustParsePrefix("2001:db8:7::5/60"), netip.MustParseAddr("fe80::9")
	}
	run(t, static, func(n *lan) { n.routers = []*testRouter{aRouter()} }, func(t *testing.T, n *lan) {
		n.hears(n.routers[0].advert())
		time.Sleep(2 * time.Second)
		n.wantTrail("PROBE fe80::*, PROBE 2001:db8:7::5")
		n.wantConfig("fe80::*, 2001:db8:7::5, gw fe80::9, route 2001:db8:7::/60")
	})
	taken := func(n *lan) { n.taken = func(a netip.Addr) bool { return !a.IsLinkLocalUnicast() } }
	run(t, static, taken, func(t *testing.T, n *lan) {
		time.Sleep(time.Minute)
		n.wantConfig("fe80::*")
	})
}

// What one who poses as a router can do is bounded.
func TestHostileRouters(t *testing.T) {
	good := func() []byte { return aRouter().advert() }
	edit := func(f func(b []byte)) []byte {
		b := good()
		f(b)
		return b
	}
	for name, f := range map[string][]byte{
		"from beyond the link":        edit(func(b []byte) { b[14+7] = 254 }),
		"with a wrong checksum":       edit(func(b []byte) { b[14+40+2]++ }),
		"from an address of no link":  icmpFrame(routerMAC, inet.GroupMAC(allNodes), netip.MustParseAddr("2001:db8::1"), allNodes, advertMessage(routerHeader(time.Hour, ""))),
		"that says less than it says": edit(func(b []byte) { b[14+5]++ }),
		"of a code that is none":      icmpFrame(routerMAC, inet.GroupMAC(allNodes), routerLL, allNodes, append([]byte{134, 1, 0, 0}, routerHeader(time.Hour, "")...)),
		"cut":                         icmpFrame(routerMAC, inet.GroupMAC(allNodes), routerLL, allNodes, advertMessage(routerHeader(time.Hour, ""))[:15]),
		"with an option without end":  icmpFrame(routerMAC, inet.GroupMAC(allNodes), routerLL, allNodes, advertMessage(routerHeader(time.Hour, ""), []byte{3, 5, 0, 0, 0, 0, 0, 0})),
		"with an option of no length": icmpFrame(routerMAC, inet.GroupMAC(allNodes), routerLL, allNodes, advertMessage(routerHeader(time.Hour, ""), []byte{3, 0, 0, 0, 0, 0, 0, 0})),
		"that is us":                  icmpFrame(ourMAC, inet.GroupMAC(allNodes), routerLL, allNodes, advertMessage(routerHeader(time.Hour, ""))),
		"from a group":                icmpFrame(mac{1, 2, 3, 4, 5, 6}, inet.GroupMAC(allNodes), routerLL, allNodes, advertMessage(routerHeader(time.Hour, ""))),
	} {
		t.Run(name, func(t *testing.T) {
			run(t, nil, nil, func(t *testing.T, n *lan) {
				n.hears(f)
				time.Sleep(1500 * time.Millisecond)
				n.wantConfig("fe80::*")
			})
		})
	}
	options := func(r *testRouter, options ...[]byte) *testRouter { r.options = options; return r }
	for name, r := range map[string]*testRouter{
		"a prefix of the link":        options(aRouter(), prefixOption("fe80::/64", time.Hour, time.Hour)),
		"a prefix of groups":          options(aRouter(), prefixOption("ff00::/64", time.Hour, time.Hour)),
		"a prefix of everything":      options(aRouter(), prefixOption("::/0", time.Hour, time.Hour)),
		"a prefix of no size":         options(aRouter(), slices.Concat([]byte{3, 4, 200, 0xc0}, make([]byte, 28))),
		"a prefix preferred too long": options(aRouter(), slices.Concat([]byte{3, 4, 64, 0x40}, lifetime(time.Hour), lifetime(2*time.Hour), make([]byte, 4), []byte{0x20, 1, 0xd, 0xb8}, make([]byte, 12))),
		"a prefix that is over":       options(aRouter(), prefixOption("2001:db8:1::/64", 0, 0)),
		"a small MTU":                 options(aRouter(), mtuOption(68)),
		"a large MTU":                 options(aRouter(), mtuOption(1<<31)),
		"name servers that are none":  options(aRouter(), dnsOption(time.Hour, "::", "::1", "ff02::1", "::ffff:10.0.0.1")),
		"domains that are none":       options(aRouter(), []byte{31, 2, 0, 0, 0, 0, 1, 0, 200, 'a', 0, 0, 0, 0, 0, 0}),
		"a domain without end":        options(aRouter(), []byte{31, 2, 0, 0, 0, 0, 1, 0, 7, 'a', 'b', 'c', 'd', 'e', 'f', 'g'}),
		"a route of too many bits":    options(aRouter(), []byte{24, 2, 128, 0, 0, 0, 1, 0, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0}),
	} {
		t.Run(name, func(t *testing.T) {
			run(t, nil, func(n *lan) { n.routers = []*testRouter{r} }, func(t *testing.T, n *lan) {
				time.Sleep(1500 * time.Millisecond)
				n.wantConfig("fe80::*, gw fe80::1")
			})
		})
	}
}

func TestManyOfEverythingAreBounded(t *testing.T) {
	run(t, nil, nil, func(t *testing.T, n *lan) {
		for i := range 100 {
			from := netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 15: byte(i + 1)})
			var options [][]byte
			for j := range 8 {
				b := [16]byte{0: 0x20, 1: 1, 4: byte(i), 5: byte(j), 15: 1}
				p := netip.PrefixFrom(netip.AddrFrom16(b), 64).Masked().String()
				options = append(options, prefixOption(p, time.Hour, time.Hour), routeOption(p, time.Hour), dnsOption(time.Hour, netip.AddrFrom16(b).String()),
					searchOption(time.Hour, string(rune('a'+j))+strings.Repeat("x", i%60)))
			}
			n.hears(icmpFrame(otherMAC, inet.GroupMAC(allNodes), from, allNodes, advertMessage(routerHeader(time.Hour, ""), options...)))
			time.Sleep(latency)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		c := n.last()
		if a, g, r, d, s := len(c.IPv6.Addresses), len(c.IPv6.Gateways), len(c.IPv6.Routes), len(c.DNS.Servers), len(c.DNS.Search); a != 1+maxPrefixes || g != maxRouters || r != 2*maxRoutes || d != maxServers || s != maxSearch {
			t.Errorf("kept %d addresses, %d routers, %d routes, %d servers, %d domains", a, g, r, d, s)
		}
		if n.client.Stats().Overflow == 0 {
			t.Error("nothing counted as too much")
		}
	})
}

func TestAFloodIsDroppedAndCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newLAN(t, nil)
		watched := []netip.Addr{}
		n.client.watched.Store(&watched) // as if Run were busy
		for range 2 * inboxFrames {
			n.hears(aRouter().advert())
		}
		if got := n.client.Stats().Overflow; got != inboxFrames {
			t.Errorf("dropped %d, want %d", got, inboxFrames)
		}
	})
}

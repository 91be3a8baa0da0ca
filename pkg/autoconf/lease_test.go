package autoconf

import (
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
)

const (
	lent     = "2001:db8:1::1000"
	leased   = "fe80::*, 2001:db8:1::1000, gw fe80::1, dns 2001:db8:53::53"
	beginM   = "PROBE fe80::*, RS from ::, SOLICIT, "
	usualWay = beginM + "REQUEST " + lent + ", PROBE " + lent
)

// managed is a LAN whose router sends us to a server, with what flags say.
func managed(flags string, s *testServer) func(*lan) {
	return func(n *lan) {
		n.routers = []*testRouter{{addr: routerLL, mac: routerMAC, header: routerHeader(2*time.Hour, flags)}}
		n.server = s
	}
}

// keepRouter has the router repeat itself, as routers do.
func keepRouter(n *lan, d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		time.Sleep(min(10*time.Minute, time.Until(end)))
		n.hears(n.routers[0].advert())
	}
}

func TestAServerLendsAnAddress(t *testing.T) {
	run(t, nil, managed("M", aServer(lent)), func(t *testing.T, n *lan) {
		time.Sleep(3 * time.Second)
		n.wantTrail(usualWay)
		n.wantConfig(leased)
		keepRouter(n, time.Hour)
		n.wantTrail("RENEW " + lent)
		keepRouter(n, 12*time.Hour)
		n.wantTrail(strings.TrimSuffix(strings.Repeat("RENEW "+lent+", ", 12), ", "))
		n.wantConfig(leased)
	})
}

func TestRapidCommit(t *testing.T) {
	s := aServer(lent, "2001:db8:1::1001")
	s.rapid = true
	run(t, nil, managed("M", s), func(t *testing.T, n *lan) {
		time.Sleep(3 * time.Second)
		n.wantTrail(beginM + "PROBE 2001:db8:1::1000, PROBE 2001:db8:1::1001")
		n.wantConfig("fe80::*, 2001:db8:1::1000, 2001:db8:1::1001, gw fe80::1, dns 2001:db8:53::53")
	})
}

func TestOnlyNameServersAreAskedFor(t *testing.T) {
	s := aServer()
	s.edit = func(m *dhcpv6.Message) { m.AddOption(dhcpv6.OptInformationRefreshTime(time.Hour)) }
	stateless := func(n *lan) {
		managed("O", s)(n)
		n.routers[0].options = [][]byte{prefixOption("2001:db8:1::/64", 24*time.Hour, 24*time.Hour)}
	}
	run(t, nil, stateless, func(t *testing.T, n *lan) {
		time.Sleep(3 * time.Second)
		n.wantTrail("PROBE fe80::*, RS from ::, PROBE 2001:db8:1::*, INFORMATION-REQUEST")
		n.wantConfig(onePrefix + ", dns 2001:db8:53::53")
		n.change(func() {
			s.edit = func(m *dhcpv6.Message) {
				m.UpdateOption(dhcpv6.OptDNS(netip.MustParseAddr("2001:db8:53::54").AsSlice()))
			}
		})
		keepRouter(n, time.Hour)
		n.wantTrail("INFORMATION-REQUEST")
		n.wantConfig(onePrefix + ", dns 2001:db8:53::54")
	})
}

func TestNobodyIsAskedWhoIsNotAnnounced(t *testing.T) {
	run(t, nil, managed("", aServer(lent)), func(t *testing.T, n *lan) {
		time.Sleep(time.Minute)
		n.wantTrail("PROBE fe80::*, RS from ::")
		r := *n.routers[0]
		r.header = routerHeader(time.Hour, "MO")
		n.hears(r.advert())
		time.Sleep(3 * time.Second)
		n.wantTrail("SOLICIT, REQUEST " + lent + ", PROBE " + lent)
	})
}

func TestASilentServerIsAskedAgain(t *testing.T) {
	s := aServer(lent)
	s.silent["SOLICIT"] = true
	run(t, nil, managed("M", s), func(t *testing.T, n *lan) {
		time.Sleep(10 * time.Second) // at 1 s, and then 1, 2 and 4 s later
		n.wantTrail("PROBE fe80::*, RS from ::, SOLICIT, SOLICIT, SOLICIT, SOLICIT")
		keepRouter(n, time.Hour)
		synctest.Wait()
		n.mu.Lock()
		if len(n.notes) < 25 || len(n.notes) > 40 {
			t.Errorf("asked %d times in an hour, want about every two minutes", len(n.notes))
		}
		s.silent = map[string]bool{}
		n.mu.Unlock()
		keepRouter(n, 3*time.Minute)
		n.wantConfig(leased)
	})
}

func TestAServerThatForgetsWhatItOffered(t *testing.T) {
	s := aServer(lent)
	s.silent["REQUEST"] = true
	run(t, nil, managed("M", s), func(t *testing.T, n *lan) {
		keepRouter(n, 6*time.Minute)
		synctest.Wait()
		n.mu.Lock()
		all := strings.Join(n.notes, ", ")
		n.mu.Unlock()
		if got := strings.Count(all, "SOLICIT"); got < 2 {
			t.Errorf("solicited %d times, want again after %d requests: %s", got, exchanges[requesting].most, all)
		}
	})
}

func TestALeaseIsRenewedReboundAndLost(t *testing.T) {
	s := aServer(lent) // T1 1 h, T2 1.6 h, valid 4 h
	run(t, nil, managed("M", s), func(t *testing.T, n *lan) {
		time.Sleep(3 * time.Second)
		n.wantTrail(usualWay)
		n.change(func() { s.silent = map[string]bool{"RENEW": true, "REBIND": true} })
		keepRouter(n, 95*time.Minute)
		n.change(func() {
			for _, note := range n.notes {
				if note != "RENEW "+lent {
					t.Errorf("before T2: sent %s", note)
				}
			}
			if len(n.notes) < 5 || len(n.notes) > 12 {
				t.Errorf("before T2: sent %v", n.notes)
			}
			n.notes = nil
		})
		keepRouter(n, 15*time.Minute)
		n.change(func() {
			if len(n.notes) == 0 || n.notes[0] == "RENEW "+lent && n.notes[len(n.notes)-1] != "REBIND "+lent {
				t.Errorf("after T2: sent %v", n.notes)
			}
		})
		n.wantConfig(leased)
		keepRouter(n, 15*time.Minute)
		n.wantConfig(strings.Replace(leased, lent, "~"+lent, 1)) // preferred for 2 h
		n.change(func() { n.notes = nil; s.silent = map[string]bool{"RENEW": true, "REBIND": true, "SOLICIT": true} })
		keepRouter(n, 2*time.Hour)
		n.wantConfig("fe80::*, gw fe80::1, dns 2001:db8:53::53")
		n.change(func() { s.silent = map[string]bool{} })
		keepRouter(n, 3*time.Minute)
		n.wantConfig(leased)
	})
}

func TestAnotherServerExtends(t *testing.T) {
	s := aServer(lent)
	run(t, nil, managed("M", s), func(t *testing.T, n *lan) {
		time.Sleep(3 * time.Second)
		n.change(func() { s.id = 9; n.notes = nil }) // which knows of the lease
		keepRouter(n, 3*time.Hour)
		n.wantConfig(leased)
		n.change(func() {
			if all := strings.Join(n.notes, ", "); !strings.Contains(all, "REBIND "+lent) || strings.Contains(all, "SOLICIT") {
				t.Errorf("sent %s", all)
			}
		})
	})
}

func TestWhatAServerMayAnswerToARenewal(t *testing.T) {
	for _, row := range []struct {
		name   string
		change func(*testServer)
		trail  string
		config string
	}{
		{"it does not know us and gets to", func(s *testServer) { s.status["RENEW"] = iana.StatusNoBinding },
			"RENEW " + lent + ", REQUEST " + lent, leased},
		{"we are on another link", func(s *testServer) { s.status["RENEW"] = iana.StatusNotOnLink; s.gives = []string{"2001:db8:1::2000"} },
			"RENEW " + lent + ", SOLICIT, REQUEST 2001:db8:1::2000, PROBE 2001:db8:1::2000", strings.Replace(leased, lent, "2001:db8:1::2000", 1)},
		{"another address beside it", func(s *testServer) { s.gives = []string{lent, "2001:db8:1::2000"} },
			"RENEW " + lent + ", PROBE 2001:db8:1::2000", strings.Replace(leased, lent, lent+", 2001:db8:1::2000", 1)},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := aServer(lent)
			run(t, nil, managed("M", s), func(t *testing.T, n *lan) {
				time.Sleep(3 * time.Second)
				n.wantTrail(usualWay)
				n.change(func() { row.change(s) })
				keepRouter(n, time.Hour+5*time.Second)
				n.wantTrail(row.trail)
				n.wantConfig(row.config)
			})
		})
	}
}

func TestAServerThatLendsNothingIsNotPestered(t *testing.T) {
	s := aServer(lent)
	s.status["REQUEST"] = iana.StatusNoAddrsAvail
	run(t, nil, managed("M", s), func(t *testing.T, n *lan) {
		keepRouter(n, time.Hour)
		synctest.Wait()
		n.mu.Lock()
		defer n.mu.Unlock()
		if len(n.notes) > 100 {
			t.Errorf("sent %d messages in an hour", len(n.notes))
		}
	})
}

func TestALentAddressOfSomebodyElseIsDeclined(t *testing.T) {
	s := aServer(lent)
	taken := netip.MustParseAddr(lent)
	prepare := func(n *lan) {
		managed("M", s)(n)
		n.taken = func(a netip.Addr) bool {
			if a == taken {
				s.gives = []string{"2001:db8:1::1001"}
				return true
			}
			return false
		}
	}
	run(t, nil, prepare, func(t *testing.T, n *lan) {
		time.Sleep(5 * time.Second)
		n.wantTrail(usualWay + ", DECLINE " + lent + ", SOLICIT, REQUEST 2001:db8:1::1001, PROBE 2001:db8:1::1001")
		n.wantConfig(strings.Replace(leased, lent, "2001:db8:1::1001", 1))
	})
}

func TestALeaseSurvivesSessions(t *testing.T) {
	s := aServer(lent)
	run(t, nil, managed("M", s), func(t *testing.T, n *lan) {
		time.Sleep(3 * time.Second)
		n.wantTrail(usualWay)
		for _, silent := range []bool{false, true} {
			n.end()
			time.Sleep(time.Minute)
			n.change(func() { s.silent["REBIND"] = silent; n.told = nil })
			n.start()
			n.wantConfig(leased)
			n.wantTrail("PROBE fe80::*, PROBE " + lent + ", RS from fe80::*, REBIND " + lent)
			time.Sleep(9 * time.Second)
			n.wantTrail("")
			n.wantConfig(leased)
		}
	})
}

func TestALeaseOfAnotherNetworkIsForgotten(t *testing.T) {
	s := aServer(lent)
	run(t, nil, managed("M", s), func(t *testing.T, n *lan) {
		time.Sleep(3 * time.Second)
		n.end()
		n.change(func() {
			n.routers = []*testRouter{{addr: secondLL, mac: otherMAC, header: routerHeader(time.Hour, "M")}}
			s.silent["REBIND"], s.id, s.gives = true, 5, []string{"2001:db8:5::1"}
			n.notes = nil
		})
		n.start()
		time.Sleep(10 * time.Second)
		n.wantTrail("PROBE fe80::*, PROBE " + lent + ", RS from fe80::*, REBIND " + lent + ", SOLICIT, REQUEST 2001:db8:5::1, PROBE 2001:db8:5::1")
		n.wantConfig("fe80::*, 2001:db8:5::1, gw fe80::2, dns 2001:db8:53::53")
	})
}

func TestALeaseIsReleased(t *testing.T) {
	for _, silent := range []bool{false, true} {
		s := aServer(lent)
		s.silent["RELEASE"] = silent
		run(t, nil, managed("M", s), func(t *testing.T, n *lan) {
			time.Sleep(3 * time.Second)
			n.wantTrail(usualWay)
			n.end()
			n.change(func() { n.told = nil })
			begun := time.Now()
			if err := n.client.Release(t.Context(), n); err != nil {
				t.Error(err)
			}
			n.wantTrail("RELEASE " + lent)
			if took := time.Since(begun); took > releaseGrace || silent != (took == releaseGrace) {
				t.Errorf("took %v", took)
			}
			if err := n.client.Release(t.Context(), n); err != nil {
				t.Error(err)
			}
			n.wantTrail("") // there is nothing left
			n.start()
			time.Sleep(3 * time.Second)
			n.wantConfig(leased)
		})
	}
}

// What is not an answer to us in this phase is counted, and nothing else.
func TestMessagesThatAreNoAnswer(t *testing.T) {
	for name, edit := range map[string]func(*dhcpv6.Message){
		"for another client": func(m *dhcpv6.Message) {
			m.UpdateOption(dhcpv6.OptClientID(&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: netMAC(otherMAC)}))
		},
		"from nobody":                func(m *dhcpv6.Message) { m.Options.Del(dhcpv6.OptionServerID) },
		"of another transaction":     func(m *dhcpv6.Message) { m.TransactionID[0]++ },
		"a reply that was not asked": func(m *dhcpv6.Message) { m.MessageType = dhcpv6.MessageTypeReply },
		"of a client":                func(m *dhcpv6.Message) { m.MessageType = dhcpv6.MessageTypeSolicit },
		"that wants us to ask":       func(m *dhcpv6.Message) { m.MessageType = dhcpv6.MessageTypeReconfigure },
		"that lends for another":     func(m *dhcpv6.Message) { m.Options.OneIANA().IaId[0]++ },
		"that lends nothing":         func(m *dhcpv6.Message) { m.Options.OneIANA().Options.Options = nil },
		"that lends for no time": func(m *dhcpv6.Message) {
			m.Options.OneIANA().Options.Addresses()[0].PreferredLifetime = 0
			m.Options.OneIANA().Options.Addresses()[0].ValidLifetime = 0
		},
		"that prefers longer than all": func(m *dhcpv6.Message) { m.Options.OneIANA().Options.Addresses()[0].ValidLifetime = time.Second },
		"that lends a group":           func(m *dhcpv6.Message) { m.Options.OneIANA().Options.Addresses()[0].IPv6Addr = allNodes.AsSlice() },
		"that lends this machine": func(m *dhcpv6.Message) {
			m.Options.OneIANA().Options.Addresses()[0].IPv6Addr = netip.IPv6Loopback().AsSlice()
		},
		"of no success": func(m *dhcpv6.Message) {
			m.AddOption(&dhcpv6.OptStatusCode{StatusCode: iana.StatusUnspecFail})
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := aServer(lent)
			s.edit = edit
			run(t, nil, managed("M", s), func(t *testing.T, n *lan) {
				time.Sleep(1500 * time.Millisecond)
				n.wantTrail(strings.TrimSuffix(beginM, ", "))
				n.wantConfig("fe80::*, gw fe80::1")
				if n.client.Stats().Ignored == 0 {
					t.Error("not counted")
				}
			})
		})
	}
}

// A server cannot make us do nothing but renew.
func TestShortLeasesAreBounded(t *testing.T) {
	s := aServer(lent)
	s.valid, s.preferred = time.Second, time.Second
	s.edit = func(m *dhcpv6.Message) {
		if ia := m.Options.OneIANA(); ia != nil {
			ia.T1, ia.T2 = time.Second, time.Second
		}
	}
	run(t, nil, managed("M", s), func(t *testing.T, n *lan) {
		keepRouter(n, 10*time.Minute)
		synctest.Wait()
		n.mu.Lock()
		defer n.mu.Unlock()
		if got := len(n.notes); got < 60 || got > 150 {
			t.Errorf("sent %d messages in ten minutes, want one in five seconds or so", got)
		}
	})
}

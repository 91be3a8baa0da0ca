package config

import (
	"fmt"
	"slices"
	"strings"

	"softether-go/pkg/split"
)

// modeFlags decide about the mode.
var modeFlags = []string{"mode", "listen", "socks5", "http", "https", "L", "R", "dns-listen"}

// serves reports whether there is anything to serve on a stack of our own.
func (c Config) serves() bool { return len(c.Proxy.listeners()) > 0 || !c.Forwards.none() }

// servesBy names the flag that asks for the first of it.
func (c Config) servesBy() string {
	switch {
	case len(c.Proxy.listeners()) > 0:
		return c.Proxy.flagOf(0)
	case len(c.Forwards.Local) > 0:
		return "L"
	case len(c.Forwards.Remote) > 0:
		return "R"
	}
	return "dns-listen"
}

// checkMode checks the settings of the mode, and that there are none of the other.
func (c Config) checkMode() []problem {
	return append(c.checkOfMode(), c.checkIsolation()...)
}

// checkIsolation finds what needs the one host that there is not if each user is one.
func (c Config) checkIsolation() (ps []problem) {
	if !c.Proxy.Isolate {
		return nil
	}
	if c.Address.NoDHCP {
		ps = append(ps, problem{flag: "no-dhcp", needs: []string{"isolate-users"}, text: "gives one address, but with -isolate-users each user needs one: drop one of the two"})
	}
	if c.Address.Address6.IsValid() {
		ps = append(ps, problem{flag: "address6", needs: []string{"isolate-users"}, text: "gives one address, but with -isolate-users each user needs one: drop one of the two"})
	}
	for _, row := range []struct {
		flag string
		n    int
	}{{"L", len(c.Forwards.Local)}, {"R", len(c.Forwards.Remote)}, {"dns-listen", len(c.Forwards.DNS)}} {
		if row.n > 0 {
			ps = append(ps, problem{flag: row.flag, needs: []string{"isolate-users"}, text: "is of no user, but with -isolate-users there is no host for others: run a second softether-go for it"})
		}
	}
	return ps
}

func (c Config) checkOfMode() []problem {
	switch c.Mode {
	case ModeRun:
		return slices.Concat(c.checkIPv6(), c.strayIn(tapMode), c.strayIn(proxies), c.strayIn(forwarding), c.strayIn(splitting), c.Run.check())
	case ModeTool:
		return nil
	case ModeTAP:
		return slices.Concat(c.checkTAP(), c.checkIPv6(), c.strayProxy(), c.strayForward(), c.straySplit(), c.strayRun())
	}
	ps := slices.Concat(c.strayTAP(), c.checkIPv6(), c.strayRun(), c.Proxy.check(), c.Forwards.check(c.Proxy, c.Address), c.Split.check())
	switch {
	case c.serves() && len(c.Proxy.listeners()) == 0:
		ps = append(ps, c.strayProxy()...)
		if len(c.Forwards.DNS) == 0 {
			ps = append(ps, c.straySplit()...)
		}
	case !c.serves():
		ps = append(ps, problem{flag: "mode", needs: modeFlags[1:],
			text: "netstack has nothing to serve: give -listen 127.0.0.1:1080"})
	}
	return ps
}

func (c Config) checkTAP() (ps []problem) {
	t, a := c.TAP, c.Address
	switch {
	case t.Monitor:
		return c.checkAddressless("monitor")
	case t.Bridge != "":
		return c.checkBridge()
	}
	if t.AcceptDefaultGateway && a.NoDHCP && !a.Gateway.IsValid() {
		ps = append(ps, problem{flag: "accept-default-gateway", text: "there is none without DHCP: add -gateway",
			needs: []string{"no-dhcp", "gateway"}})
	}
	if t.ConnMark && t.PolicyTable == 0 {
		ps = append(ps, problem{flag: "connmark", text: "needs a table to route replies by: add -policy-route-table, such as 200",
			needs: []string{"policy-route-table"}})
	}
	if t.BlockIPv6 && !t.AcceptDefaultGateway {
		ps = append(ps, problem{flag: "block-ipv6", text: "is for a VPN that takes everything: add -accept-default-gateway",
			needs: []string{"accept-default-gateway"}})
	}
	return ps
}

// checkAddressless finds what is about this machine's address, which with a certain flag
// it has none of in the VPN.
func (c Config) checkAddressless(by string) (ps []problem) {
	for _, flag := range append(c.asked(addressing), c.asked(tapMode)...) {
		if by == "monitor" && flag == "bridge" {
			ps = append(ps, problem{flag: flag, text: "sends what -monitor only looks at: drop one of the two"})
		} else if !slices.Contains([]string{"mac", "tap", by}, flag) {
			ps = append(ps, problem{flag: flag, needs: []string{by},
				text: fmt.Sprintf("is about an address of this machine, and with -%s the VPN gives it none: drop one of the two", by)})
		}
	}
	return ps
}

// checkBridge checks what is for -bridge alone.
func (c Config) checkBridge() (ps []problem) {
	ps = c.checkAddressless("bridge")
	if c.TAP.Bridge == c.TAP.Name {
		ps = append(ps, problem{flag: "bridge", needs: []string{"tap"}, text: fmt.Sprintf(
			"%s is the name of the interface itself (-tap): give an existing bridge", quote(c.TAP.Bridge))})
	}
	return ps
}

// strayIn finds settings of other modes than that of a command with a network of its own.
func (c Config) strayIn(g group) (ps []problem) {
	for _, flag := range c.asked(g) {
		ps = append(ps, problem{flag: flag, text: "is not for softether-go run, whose command has a whole network of its own: drop it"})
	}
	return ps
}

// strayRun finds what only a command with a network of its own has.
func (c Config) strayRun() (ps []problem) {
	for _, flag := range c.asked(runMode) {
		ps = append(ps, problem{flag: flag, text: "is for softether-go run [flags] -- COMMAND, and no command is to be run: drop it"})
	}
	return ps
}

// strayTAP finds what only TAP mode has.
func (c Config) strayTAP() (ps []problem) {
	other := "-mode says netstack"
	if c.serves() {
		other = fmt.Sprintf("-%s is of netstack mode", c.servesBy())
	}
	for _, flag := range c.asked(tapMode) {
		ps = append(ps, problem{flag: flag, needs: modeFlags,
			text: fmt.Sprintf("is of TAP mode, but %s: drop one of the two", other)})
	}
	return ps
}

// strayProxy finds what only netstack mode has.
func (c Config) strayProxy() (ps []problem) {
	text, needs := "is for proxies, but none is asked for: add -listen, or drop it", modeFlags
	if len(c.Proxy.listeners()) > 0 {
		text, needs = "is of netstack mode, but -mode says tap: drop one of the two", []string{"mode"}
	}
	for _, flag := range c.asked(proxies) {
		// The password may be from a place that has no flag, and it goes with the user.
		if flag == "proxy-pass" && c.Proxy.User != "" {
			continue
		}
		ps = append(ps, problem{flag: flag, text: text, needs: needs})
	}
	return ps
}

// strayForward finds what only netstack mode has.
func (c Config) strayForward() (ps []problem) {
	for _, flag := range c.asked(forwarding) {
		ps = append(ps, problem{flag: flag, text: "is of netstack mode, but -mode says tap: drop one of the two", needs: []string{"mode"}})
	}
	return ps
}

// straySplit finds rules for proxy clients where there are none.
func (c Config) straySplit() (ps []problem) {
	const proxies = "is for what proxies are asked to reach"
	text := proxies + ", and none is asked for: add -listen 127.0.0.1:1080; if you mean a network interface, where routes decide, drop it"
	switch {
	case c.Mode == ModeNetstack:
		text = proxies + " and -dns-listen is asked for; -L and -R are always in the VPN: add -listen or -dns-listen, or drop it"
	case len(c.asked(tapMode)) > 0:
		text = proxies + "; with a network interface routes decide: drop it, and take of the VPN's what you want by -accept-static-routes"
	}
	for _, flag := range c.asked(splitting) {
		ps = append(ps, problem{flag: flag, needs: modeFlags, text: text})
	}
	return ps
}

// check tells rules that contradict each other, or say nothing.
func (s Split) check() []problem {
	_, err := split.New(s.Direct, s.ViaVPN)
	if err == nil {
		return nil
	}
	var ps []problem
	for line := range strings.SplitSeq(err.Error(), "\n") {
		ps = append(ps, problem{flag: "via-vpn", text: line, needs: []string{"direct"}})
	}
	return ps
}

// asked names the options of a group that fill a field with more than nothing.
func (c Config) asked(g group) (flags []string) {
	d := draft{Config: c}
	for _, o := range options {
		if o.group == g && o.value.show(&d) != "" {
			flags = append(flags, o.name)
		}
	}
	return flags
}

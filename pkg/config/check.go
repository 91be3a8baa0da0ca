package config

import (
	"errors"
	"fmt"
	"slices"
)

// noPassword is the one problem that a prompt can solve.
const noPassword = "no password: give -pass-file FILE, SOFTETHER_PASS or the systemd credential softether-pass, " +
	"run on a terminal to be asked, or log in with -anonymous"

// A problem is one thing wrong, said in one line.
type problem struct {
	flag string
	text string

	// needs are other flags that the check was about: if one of them has a problem
	// of its own, this one says nothing new.
	needs []string
	where string // the variable or file line the value came from, if it was no flag
}

func (p problem) Error() string {
	if p.where != "" {
		return fmt.Sprintf("-%s: %s (from %s)", p.flag, p.text, p.where)
	}
	return fmt.Sprintf("-%s: %s", p.flag, p.text)
}

func join(problems []problem) error {
	errs := make([]error, 0, len(problems))
	for _, p := range problems {
		errs = append(errs, p)
	}
	return errors.Join(errs...)
}

// problem records what is wrong with an option, as such.
func (l *loader) problem(flag, text string) {
	p := problem{flag: flag, text: text}
	if in := l.inputs[flag]; in.origin == FromEnv || in.origin == FromFile || in.origin == FromAccount {
		p.where = in.where
	}
	l.problems = append(l.problems, p)
	l.failed[flag] = true
}

// add records a failed check, unless it follows from an earlier problem.
func (l *loader) add(p problem) {
	if l.failed[p.flag] || slices.ContainsFunc(p.needs, func(flag string) bool { return l.failed[flag] }) {
		return
	}
	l.problem(p.flag, p.text)
}

// Validate checks that what is required is there and that the fields fit
// together, and returns every problem, joined, one line each. Load has already
// called it, and has checked each value by itself while parsing it.
func (c Config) Validate() error { return join(c.check()) }

func (c Config) check() []problem {
	if c.Run.Attach != "" {
		return slices.Concat(c.checkAttach(), c.Address.check(), c.checkMode())
	}
	return slices.Concat(c.checkLogin(), c.checkTrust(), c.checkUDP(), c.Way.check(), c.Address.check(), c.checkMode(), c.Retry.check())
}

func (c Config) checkLogin() (ps []problem) {
	if c.Server.Host == "" {
		ps = append(ps, problem{flag: "host", text: "required: give the server's name or address"})
	}
	if c.Server.Hub == "" {
		ps = append(ps, problem{flag: "hub", text: "is empty: give the virtual hub's name, or leave it out for DEFAULT"})
	}
	if c.Auth.User == "" {
		ps = append(ps, problem{flag: "user", text: "required, also with -anonymous: the server finds the account by it"})
	}
	return append(ps, c.Auth.check()...)
}

// checkTrust allows one way of trust at a time: a second would go unused, and
// nobody asks for that on purpose.
func (c Config) checkTrust() []problem {
	pins, ca, first := len(c.Trust.Pins) > 0, c.Trust.CAFile != "", c.Trust.KnownServers != ""
	switch {
	case first && c.Trust.Insecure:
		return []problem{{flag: "insecure", text: "accepts any server, but -trust-on-first-use only the one that was there at first: drop one"}}
	case first && (pins || ca):
		return []problem{{flag: "trust-on-first-use", text: "is for servers that nothing else vouches for, but -pin or -ca does: drop one"}}
	case c.Trust.Insecure && (pins || ca):
		return []problem{{flag: "insecure", text: "accepts any server, but -pin or -ca asks for a certain one: drop one"}}
	case pins && ca:
		return []problem{{flag: "ca", text: "has no say beside -pin, which accepts certain certificates whoever signed them: drop one"}}
	}
	return nil
}

func (a Addressing) check() (ps []problem) {
	if !a.NoDHCP {
		if a.Address.IsValid() {
			ps = append(ps, problem{flag: "address", text: "is for static addressing: add -no-dhcp", needs: []string{"no-dhcp"}})
		}
		if a.Gateway.IsValid() {
			ps = append(ps, problem{flag: "gateway", text: "is for static addressing: add -no-dhcp and -address", needs: []string{"no-dhcp"}})
		}
		return ps
	}
	switch {
	case !a.Address.IsValid() && !a.Address6.IsValid():
		return []problem{{flag: "no-dhcp", text: "leaves us without an address: add -address, such as 10.0.0.5/24", needs: []string{"address", "address6"}}}
	case !a.Address.IsValid() && a.Gateway.IsValid():
		return []problem{{flag: "gateway", text: "is for an -address, and there is none: add it, or give -gateway6", needs: []string{"address"}}}
	case !a.Address.IsValid():
		return nil
	}
	return a.checkGateway()
}

// checkIPv6 finds what does not fit together, or not into the mode.
func (c Config) checkIPv6() (ps []problem) {
	a := c.Address
	if c.TAP.Bridge != "" || c.TAP.Monitor {
		return nil // checkTAP has found what is about addresses
	}
	stray := func(set bool, flag, text string) {
		if set {
			ps = append(ps, problem{flag: flag, text: text, needs: modeFlags})
		}
	}
	if c.Mode == ModeTAP {
		const text = "is not for a network interface, whose IPv6 the kernel configures as the VPN's router announces it, if -ipv6-autoconf is given: drop it"
		stray(a.Address6.IsValid(), "address6", text)
		stray(a.Gateway6.IsValid(), "gateway6", text)
		stray(a.NoIPv6, "no-ipv6", text)
		for _, s := range a.DNS {
			stray(s.Is6(), "dns", fmt.Sprintf("%v is IPv6, which here the kernel configures: give IPv4 addresses", s))
		}
		return ps
	}
	switch gw := a.Gateway6; {
	case a.NoIPv6 && a.Address6.IsValid():
		ps = append(ps, problem{flag: "no-ipv6", text: "contradicts -address6: drop one of the two", needs: []string{"address6"}})
	case !gw.IsValid():
	case !a.Address6.IsValid():
		ps = append(ps, problem{flag: "gateway6", text: "is for static addressing: add -address6", needs: []string{"address6"}})
	case gw == a.Address6.Addr():
		ps = append(ps, problem{flag: "gateway6", text: "is our own -address6: give the router's"})
	case !gw.IsLinkLocalUnicast() && !a.Address6.Contains(gw):
		ps = append(ps, problem{flag: "gateway6", text: fmt.Sprintf("%s is neither in %s nor of the link (fe80::), so it cannot be reached: correct it", gw, a.Address6.Masked())})
	}
	return ps
}

func (a Addressing) checkGateway() []problem {
	var text string
	switch {
	case !a.Gateway.IsValid():
	case a.Gateway == a.Address.Addr():
		text = "is our own -address: give the router's"
	case !a.Address.Contains(a.Gateway):
		text = fmt.Sprintf("%s is not in %s, so it cannot be reached: correct one of them", a.Gateway, a.Address.Masked())
	case !usableHost(a.Gateway, a.Address):
		text = fmt.Sprintf("%s is the network or broadcast address of %s: give the router's", a.Gateway, a.Address.Masked())
	}
	if text == "" {
		return nil
	}
	return []problem{{flag: "gateway", text: text}}
}

func (p Proxy) listeners() []string { return slices.Concat(p.Mixed, p.SOCKS5, p.HTTP, p.HTTPS) }

func (p Proxy) check() (ps []problem) {
	login := []string{"proxy-user", "proxy-pass", "proxy-pass-file", "proxy-users"}
	switch {
	case p.Users != "" && (p.User != "" || p.Password.IsSet()):
		ps = append(ps, problem{flag: "proxy-users", needs: login, text: "has all users with their passwords, but -proxy-user or -proxy-pass names one: drop one of the two"})
	case p.User != "" && p.Password.Reveal() == "":
		ps = append(ps, problem{flag: "proxy-pass", needs: login,
			text: "no password for -proxy-user: give -proxy-pass-file FILE or SOFTETHER_PROXY_PASS"})
	case p.User == "" && p.Password.IsSet():
		ps = append(ps, problem{flag: "proxy-user", text: "missing: the proxies' password needs a user name", needs: login})
	}
	ps = append(ps, p.checkTLS()...)
	if p.Isolate && p.Users == "" {
		ps = append(ps, problem{flag: "isolate-users", needs: login, text: "makes each user a host: add -proxy-users, which tells users apart"})
	}
	all := p.listeners()
	for i, addr := range all {
		if j := slices.IndexFunc(all[:i], func(other string) bool { return overlap(addr, other) }); j >= 0 {
			ps = append(ps, problem{flag: p.flagOf(i), text: fmt.Sprintf("%s is taken by -%s %s: give another port", addr, p.flagOf(j), all[j])})
		}
	}
	if addr := firstOpen(p); addr != "" && !p.Open {
		ps = append(ps, problem{flag: p.flagOf(slices.Index(all, addr)), needs: login,
			text: fmt.Sprintf("others can reach %s and nobody has to log in: listen on 127.0.0.1, "+
				"add -proxy-user and -proxy-pass-file or -proxy-users, or allow it with -proxy-open", addr)})
	}
	return ps
}

func (p Proxy) checkTLS() []problem {
	switch {
	case p.CertFile != "" && p.KeyFile == "":
		return []problem{{flag: "proxy-tls-key", text: "missing: -proxy-tls-cert needs its private key"}}
	case p.CertFile == "" && p.KeyFile != "":
		return []problem{{flag: "proxy-tls-cert", text: "missing: -proxy-tls-key needs its certificate"}}
	case p.CertFile == "" && len(p.HTTPS) > 0:
		return []problem{{flag: "https", needs: []string{"proxy-tls-cert", "proxy-tls-key"}, text: "needs a certificate to show its clients: add -proxy-tls-cert and -proxy-tls-key"}}
	case p.CertFile != "" && len(p.HTTPS)+len(p.Mixed) == 0:
		return []problem{{flag: "proxy-tls-cert", needs: []string{"https", "listen"}, text: "is for clients that speak TLS, and no port is for them: add -https or -listen"}}
	}
	return nil
}

// flagOf names the flag that the i-th of the listeners came from.
func (p Proxy) flagOf(i int) string {
	switch {
	case i < len(p.Mixed):
		return "listen"
	case i < len(p.Mixed)+len(p.SOCKS5):
		return "socks5"
	case i < len(p.Mixed)+len(p.SOCKS5)+len(p.HTTP):
		return "http"
	}
	return "https"
}

func (r Retry) check() []problem {
	if r.MaxDelay >= r.Delay {
		return nil
	}
	return []problem{{flag: "reconnect-max-delay", needs: []string{"reconnect-delay"},
		text: fmt.Sprintf("%v is below -reconnect-delay %v: raise it", r.MaxDelay, r.Delay)}}
}

package config

import (
	"cmp"
	"fmt"
	"log/slog"
	"slices"
)

// settle resolves what depends on several options. Each step leaves alone what
// has a problem already.
func (l *loader) settle() {
	d := &l.draft
	l.settleServer()
	l.settleMethod()
	l.settleLogin()
	l.settleTrust()
	if d.Proxy.User != "" || l.inputs["proxy-pass-file"].given() {
		l.settleSecret(secretPlace{
			flag: "proxy-pass", fileFlag: "proxy-pass-file", credentials: []string{"softether-proxy-pass"},
			into: &d.Proxy.Password, file: d.proxyPassFile,
		})
	}
	l.settleRun()
	l.settleTool()
	l.settleProxy()
	if d.Mode == ModeAuto {
		d.Mode = ModeTAP
		if slices.ContainsFunc(modeFlags[1:], func(flag string) bool { return l.inputs[flag].given() }) {
			d.Mode = ModeNetstack
		}
	}
	// A long base alone is no contradiction to a limit that nobody chose.
	if !l.inputs["reconnect-max-delay"].given() {
		d.Retry.MaxDelay = max(d.Retry.MaxDelay, d.Retry.Delay)
	}
	l.noteRisks()
}

// settleServer lets the higher place win between -port and ports in -host, and gives
// -port to those that have none.
func (l *loader) settleServer() {
	d := &l.draft
	host, port := l.inputs["host"], l.inputs["port"]
	without := slices.IndexFunc(d.hosts, func(h hostForm) bool { return h.port == 0 })
	switch {
	case len(d.hosts) == 0:
		return
	case host.origin < port.origin:
		for i := range d.hosts {
			d.hosts[i].port = 0
		}
	case without >= 0:
	case len(d.hosts) > 1 && host.origin == port.origin:
		l.add(problem{flag: "port", text: "every -host has a port of its own: drop -port, or one of those"})
	case len(d.hosts) > 1:
	case host.origin > port.origin:
		d.port, d.hosts[0].port = d.hosts[0].port, 0
		port.place = host.place
	case d.hosts[0].port != d.port:
		l.add(problem{flag: "port", text: fmt.Sprintf("says %d, but -host says %d: drop one", d.port, d.hosts[0].port)})
	default:
		d.hosts[0].port = 0
	}
	for i, h := range d.hosts {
		a := Address{h.name, cmp.Or(h.port, d.port)}
		switch {
		case i == 0:
			d.Server.Host, d.Server.Port = a.Host, a.Port
		case slices.Contains(d.Server.Addresses(), a):
			l.add(problem{flag: "host", text: fmt.Sprintf("%s is in the list twice: drop one", quote(h.name))})
		default:
			d.Server.Others = append(d.Server.Others, a)
		}
	}
}

// settleRun is for a command with a network of its own. On its terminal
// we are a guest, so unless asked we only speak of trouble.
func (l *loader) settleRun() {
	if !l.src.Run {
		return
	}
	if l.inputs["mode"].given() && l.draft.Mode != ModeAuto {
		l.add(problem{flag: "mode", text: "is not for softether-go run, which has a way of its own: drop it"})
	}
	l.draft.Mode = ModeRun
	if !l.inputs["log-level"].given() {
		l.draft.Log.Level = slog.LevelWarn
	}
}

// settleTool is for a command that uses the VPN itself. A config file may be made for
// other uses too, so what it says of those does not matter; who says it here is told.
func (l *loader) settleTool() {
	if !l.src.Tool {
		return
	}
	for _, g := range []group{proxies, forwarding, splitting, tapMode, runMode} {
		for _, flag := range l.draft.asked(g) {
			if l.inputs[flag].origin == FromFlag {
				l.add(problem{flag: flag, text: "is not for a command that uses the VPN itself: drop it"})
			}
		}
	}
	d := &l.draft
	d.Mode, d.Proxy, d.Forwards, d.Split, d.TAP, d.Run = ModeTool, Proxy{}, Forwards{}, Split{}, TAP{}, Run{}
	if !l.inputs["log-level"].given() {
		d.Log.Level = slog.LevelWarn
	}
}

func (l *loader) noteRisks() {
	d := &l.draft
	if d.Trust.Insecure {
		l.note("-insecure: any server is accepted, also one in between that reads everything; -pin is as easy and safe")
	}
	if d.Links.Cleartext {
		l.note("-insecure-no-encryption: everybody between here and the server can read and change what the VPN carries; only the login is encrypted")
	}
	if addr := firstOpen(d.Proxy); addr != "" && d.Proxy.Open {
		l.note(fmt.Sprintf("-proxy-open: whoever reaches %s can use the VPN", addr))
	}
	for _, note := range d.Forwards.open() {
		l.note(note)
	}
	l.noteWay()
	if d.Mode == ModeTAP {
		l.noteIdle()
	} else if d.Mode == ModeNetstack && d.Address.NoDHCP && len(d.Address.DNS) == 0 {
		l.note("-no-dhcp without -dns: names given to the proxies will not resolve")
	}
	if f := l.draft.configFile; f != "" && (l.fromFile("pass") || l.fromFile("proxy-pass") || l.fromFile("proxy-url-pass") || l.fromFile("proxy-header") ||
		l.fromFile("pass-hash") || l.fromFile("key-password")) {
		l.noteReadable(f)
	}
}

// noteIdle is for settings of TAP mode that will do nothing.
func (l *loader) noteIdle() {
	a, t := l.draft.Address, l.draft.TAP
	if len(a.DNS)+len(a.Search) > 0 && !t.AcceptDNS {
		l.note("-dns and -search without -accept-dns: this machine's resolver will not hear of them")
	}
	if a.NoDHCP && t.AcceptDNS && len(a.DNS) == 0 {
		l.note("-accept-dns with -no-dhcp: there are no name servers to use; -dns gives some")
	}
	if a.NoDHCP && t.AcceptStaticRoutes {
		l.note("-accept-static-routes with -no-dhcp: there is no lease to bring routes")
	}
}

// fromFile reports whether the config file itself holds the option's value.
func (l *loader) fromFile(name string) bool {
	in := l.inputs[name]
	return in.origin == FromFile && len(in.words) > 0
}

// firstOpen returns the first listener that needs no login and that others can
// reach, or none.
func firstOpen(p Proxy) string {
	if p.User != "" || p.Users != "" {
		return ""
	}
	for _, addr := range p.listeners() {
		if !onLoopback(addr) {
			return addr
		}
	}
	return ""
}

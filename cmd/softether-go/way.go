package main

import (
	"fmt"
	"log/slog"
	"net/http"

	"softether-go/pkg/client"
	"softether-go/pkg/config"
	"softether-go/pkg/underlay"
)

// newDialer translates the settings about the way to the server. What this process
// may not do fails here.
func newDialer(cfg config.Config, log *slog.Logger) (*underlay.Dialer, error) {
	w := cfg.Way
	d := &underlay.Dialer{
		Log:  log,
		Bind: underlay.Bind{Address: w.BindAddress, Interface: w.BindInterface, Mark: w.Mark},
	}
	d.Carriers = carriersOf(w)
	if err := d.Bind.Check(); err != nil {
		flag := "-fwmark"
		if w.BindInterface != "" {
			flag = "-bind-interface"
		}
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	if p := proxyOf(w); p != nil {
		d.Via = func(host string, port uint16) *underlay.Proxy {
			if w.ByProxy(host, port) {
				return p
			}
			return nil
		}
	}
	return d, nil
}

// carriersOf returns what may carry the session, in the order of trying.
func carriersOf(w config.Way) []underlay.Carrier {
	var (
		tcp  = underlay.Carrier{Network: "tcp"}
		rudp = underlay.Carrier{Network: "rudp", Port: w.RUDPPort}
		dns  = underlay.Carrier{Network: "rudp-dns", Port: 53}
	)
	switch w.Transport {
	case config.RUDP:
		return []underlay.Carrier{rudp}
	case config.DNS:
		return []underlay.Carrier{dns}
	case config.ICMP:
		return []underlay.Carrier{{Network: "rudp-icmp"}}
	case config.Auto:
		if w.RUDPPort == 0 {
			return []underlay.Carrier{tcp, dns}
		}
		return []underlay.Carrier{tcp, rudp, dns}
	}
	return nil
}

// proxyOf returns the proxy before the server, nil without one.
func proxyOf(w config.Way) *underlay.Proxy {
	if w.Proxy.Scheme == "" {
		return nil
	}
	p := &underlay.Proxy{
		Scheme: w.Proxy.Scheme, Host: w.Proxy.Host, Port: w.Proxy.Port,
		User: w.Proxy.User, Password: w.Proxy.Password.Reveal(),
	}
	for _, h := range w.Headers {
		if p.Header == nil {
			p.Header = http.Header{}
		}
		p.Header.Add(h.Name, h.Value.Reveal())
	}
	return p
}

// serversOf lists the servers.
func serversOf(s config.Server) (all []client.Server) {
	for _, a := range s.Addresses() {
		all = append(all, client.Server{Host: a.Host, Port: int(a.Port)})
	}
	return all
}

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

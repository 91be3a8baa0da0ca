package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"softether-go/pkg/config"
	"softether-go/pkg/netcfg"
	"softether-go/pkg/users"
	"softether-go/proxy"
)

// proxies are the listeners and what serves them.
type proxies struct {
	log     *slog.Logger
	servers []listening
	reloads []func() error  // of the files that have to do with it
	up      <-chan struct{} // closed when the tunnel is, for the first time; nil is from the start
	users   *users.Users    // of a file; nil without one
}

type listening struct {
	name    string   // in counters
	schemes []string // as curl's -x takes them, the best first
	ln      net.Listener
	server  server
	woke    bool // a client of its may have had the service manager start us: it waits for the tunnel
}

// here replaces all addresses by one to connect to.
var here = strings.NewReplacer("[::]", "127.0.0.1", "0.0.0.0", "127.0.0.1")

// urls lists it as curl's -x takes it.
func (l listening) urls() (urls []string) {
	for _, scheme := range l.schemes {
		if a, ok := l.ln.Addr().(*net.UnixAddr); ok {
			if strings.HasPrefix(scheme, "socks") {
				urls = append(urls, scheme+"://localhost"+absolute(a.Name))
			} else { // curl cannot be told of such a proxy
				urls = append(urls, "unix:"+absolute(a.Name))
			}
			continue
		}
		urls = append(urls, scheme+"://"+here.Replace(l.ln.Addr().String()))
	}
	return urls
}

// absolute is a Unix socket's path as it is from everywhere. Names without a file stay.
func absolute(path string) string {
	if full, err := filepath.Abs(path); err == nil && !strings.HasPrefix(path, "@") {
		return full
	}
	return path
}

// server is what all kinds of proxy have in common.
type server interface {
	Serve(context.Context, net.Listener) error
	Shutdown(context.Context) error
	Stats() proxy.Stats
}

// openProxies binds all listeners or none. pc says what is behind them.
func openProxies(ctx context.Context, c config.Proxy, pc proxy.Config) (*proxies, error) {
	log := pc.Log
	p := &proxies{log: log}
	var err error
	if pc.Auth, err = p.openAuth(c); err != nil {
		return nil, usageError{err}
	}
	pc.Announce = announcements[c.Announce]
	if pc.TLS, err = p.openTLS(c); err != nil {
		return nil, usageError{err}
	}
	from := newOpener(c, pc.Auth)
	open := func(name string, addresses []string, newServer func() server, schemes ...string) error {
		for _, a := range addresses {
			lns, err := from.listen(ctx, a)
			if err != nil {
				return err
			}
			for _, ln := range lns {
				l := listening{name, schemes, ln, newServer(), strings.HasPrefix(a, "systemd:")}
				p.servers = append(p.servers, l)
				log.Info("proxy listens", "url", strings.Join(l.urls(), " "))
			}
		}
		return nil
	}
	err = open("mixed", c.Mixed, func() server { return proxy.NewMixed(pc) }, "socks5h", "http")
	if err == nil {
		err = open("socks5", c.SOCKS5, func() server { return proxy.NewSOCKS5(pc) }, "socks5h")
	}
	if err == nil {
		err = open("http", c.HTTP, func() server { return proxy.NewHTTP(pc) }, "http")
	}
	if err == nil {
		err = open("https", c.HTTPS, func() server { return proxy.NewHTTPS(pc) }, "https")
	}
	if err != nil {
		p.close()
		return nil, err
	}
	if unused := from.passed.unused(); len(unused) > 0 {
		log.Warn("systemd passes sockets that no setting asks for", "names", unused)
	}
	return p, nil
}

// openTLS returns what clients that speak TLS are shown; nil means that none may.
func (p *proxies) openTLS(c config.Proxy) (*tls.Config, error) {
	if c.CertFile == "" {
		return nil, nil
	}
	crt, err := proxy.OpenCertificate(c.CertFile, c.KeyFile, p.log)
	if err != nil {
		return nil, fmt.Errorf("-proxy-tls-cert: %w", err)
	}
	p.reloads = append(p.reloads, crt.Reload)
	return crt.TLS(), nil
}

// urls lists the proxies as curl's -x takes them.
func (p *proxies) urls() (urls []string) {
	for _, s := range p.servers {
		urls = append(urls, s.urls()...)
	}
	return urls
}

// serve serves on all listeners until ctx ends, one fails, or shutdown.
func (p *proxies) serve(ctx context.Context) error {
	all := make([]func(context.Context) error, 0, len(p.servers))
	for _, s := range p.servers {
		all = append(all, func(ctx context.Context) error {
			if s.woke && p.up != nil {
				select {
				case <-p.up:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			return s.server.Serve(ctx, s.ln)
		})
	}
	return serveAll(ctx, all)
}

// serveAll runs all until ctx ends or one fails; net.ErrClosed is how one ends at its shutdown.
func serveAll(ctx context.Context, all []func(context.Context) error) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, serve := range all {
		g.Go(func() error {
			if err := serve(ctx); !errors.Is(err, net.ErrClosed) {
				return err
			}
			return nil // shutdown's doing
		})
	}
	g.Go(func() error { // so that shutdown alone does not end us before the client
		<-ctx.Done()
		return ctx.Err()
	})
	return g.Wait()
}

// shutdown takes no more clients and ends those there are, after a while.
func (p *proxies) shutdown(wait time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	var g errgroup.Group
	for _, s := range p.servers {
		g.Go(func() error { return s.server.Shutdown(ctx) })
	}
	_ = g.Wait() // ctx has ended or all have; both are what we want
	p.close()
}

func (p *proxies) close() {
	for _, s := range p.servers {
		s.ln.Close()
	}
}

var announcements = map[config.Announce]proxy.Announce{
	config.AnnounceNothing: proxy.AnnounceNothing, config.AnnounceHide: proxy.AnnounceHide,
	config.AnnounceVia: proxy.AnnounceVia, config.AnnounceAll: proxy.AnnounceAll,
}

// inside is what a lease and the user's rules say is behind the tunnel. A default route says
// nothing: then it would be everything.
func inside(c netcfg.Config, s config.Split) (in proxy.Inside) {
	if c.Address.IsValid() {
		in.Networks = append(in.Networks, c.Address.Masked())
	}
	for _, r := range slices.Concat(c.Routes, c.IPv6.Routes) {
		if r.Dest.Bits() > 0 && !r.Dest.Addr().IsLinkLocalUnicast() {
			in.Networks = append(in.Networks, r.Dest)
		}
	}
	in.Domains = slices.Clone(c.DNS.Search)
	for _, v := range s.ViaVPN {
		if p, err := netip.ParsePrefix(v.String()); err == nil {
			in.Networks = append(in.Networks, p)
		} else {
			in.Domains = append(in.Domains, v.String())
		}
	}
	return in
}

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"softether-go/pkg/config"
	"softether-go/pkg/hub"
	"softether-go/pkg/hub/gateway"
)

// demoPage is a name that only the gateway behind the hub knows.
const demoPage = "http://hub.demo/"

// demo runs the main job against an embedded hub: the server, the tunnel, the
// proxies and a page fetched through them, all in this process.
func demo(ctx context.Context, args []string, t terminal) error {
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	once := flags.Bool("once", false, "")
	socks := flags.String("socks5", freeAddress("127.0.0.1:1080"), "")
	web := flags.String("http", freeAddress("127.0.0.1:8080"), "")
	if err := flags.Parse(args); err != nil {
		return badConfig(err)
	}
	if flags.NArg() > 0 {
		return usageError{fmt.Errorf("demo takes no argument %q; its flags are -once, -socks5 and -http", flags.Arg(0))}
	}
	d := &demonstration{t: t, once: *once, password: rand.Text()}
	return d.run(ctx, *socks, *web)
}

// run starts the hub, then the VPN, and ends them the other way round.
func (d *demonstration) run(ctx context.Context, socks, web string) error {
	below, stopHub := context.WithCancel(context.WithoutCancel(ctx))
	servers, below := errgroup.WithContext(below)
	err := d.startHub(below, servers)
	if err == nil {
		err = d.runVPN(ctx, socks, web)
	}
	stopHub()
	if e := servers.Wait(); err == nil && !errors.Is(e, context.Canceled) {
		err = e
	}
	return err
}

// runVPN is the main job with the settings of a user of the hub.
func (d *demonstration) runVPN(ctx context.Context, socks, web string) error {
	v, err := newProgram(ctx, d.config(socks, web), newLogger(config.Log{}, d.t))
	if err != nil {
		return fmt.Errorf("%w (demo takes -socks5 and -http with other addresses)", err)
	}
	defer v.close()
	v.tables = d.t.err
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer stop()
		return v.run(ctx)
	})
	g.Go(func() error {
		err := d.show(ctx, v)
		if d.once {
			stop()
		}
		return err
	})
	return g.Wait()
}

// freeAddress returns preferred, or any port if that one is taken: a first try
// should not stumble over another program.
func freeAddress(preferred string) string {
	ln, err := net.Listen("tcp", preferred)
	if err != nil {
		return "127.0.0.1:0"
	}
	ln.Close()
	return preferred
}

// demonstration is the server's side of the demo.
type demonstration struct {
	t        terminal
	once     bool // ends after the page
	password string
	hub      *hub.Hub
	addr     netip.AddrPort
}

// startHub makes a hub on loopback with a gateway behind it.
func (d *demonstration) startHub(ctx context.Context, g *errgroup.Group) error {
	h, err := hub.New(hub.Config{Hub: "DEMO", Users: []hub.User{{Name: "demo", Password: d.password}},
		Message: "Welcome to the embedded hub."})
	if err != nil {
		return err
	}
	gw, err := gateway.New(gateway.Config{})
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		gw.Close()
		return err
	}
	d.hub, d.addr = h, ln.Addr().(*net.TCPAddr).AddrPort()
	g.Go(func() error { return h.Serve(ctx, ln) })
	g.Go(func() error { return h.Plug(ctx, gw) })
	g.Go(func() error {
		defer gw.Close()
		return gw.Serve(ctx)
	})
	return nil
}

// config is what a user of this hub would have given.
func (d *demonstration) config(socks, web string) config.Config {
	return config.Config{
		Server: config.Server{Host: d.addr.Addr().String(), Port: d.addr.Port(), Hub: "DEMO"},
		Auth:   config.Auth{User: "demo", Password: config.NewSecret(d.password)},
		Trust:  config.Trust{Pins: []config.Pin{d.hub.Fingerprint()}},
		Proxy:  config.Proxy{SOCKS5: []string{socks}, HTTP: []string{web}},
	}
}

// show waits for the tunnel, fetches the page through each proxy and says what to
// try next.
func (d *demonstration) show(ctx context.Context, v *program) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-v.Up():
	}
	for _, u := range v.proxies.urls() {
		page, err := fetch(ctx, u, demoPage)
		if err != nil {
			return fmt.Errorf("fetch %s through %s: %w", demoPage, u, err)
		}
		fmt.Fprintf(d.t.out, "\n$ curl -x %s %s\n%s\n", u, demoPage, strings.TrimSpace(page))
	}
	fmt.Fprintf(d.t.out, `
The page came from a web server behind an embedded SoftEther hub, through a VPN
session to %v and a network stack in this process.
`, d.addr)
	if !d.once {
		fmt.Fprintf(d.t.out, demoHints, v.proxies.urls()[0], demoPage)
	}
	return nil
}

const demoHints = `
Try, in another terminal:

  curl -x %[1]s %[2]s
  curl -x %[1]s -o /dev/null %[2]sbytes?n=1000000000

With a server of your own:

  softether-go -host vpn.example.com -hub HUB -user USER -socks5 127.0.0.1:1080

Ctrl-C ends the demo.
`

// fetch gets a page through a proxy, which also resolves the name.
func fetch(ctx context.Context, proxy, page string) (string, error) {
	u, err := url.Parse(proxy)
	if err != nil {
		return "", err
	}
	transport := &http.Transport{Proxy: http.ProxyURL(u), DisableKeepAlives: true}
	client := &http.Client{Transport: transport, Timeout: 20 * time.Second}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, page, nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Accept", "text/plain")
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return string(b), err
}

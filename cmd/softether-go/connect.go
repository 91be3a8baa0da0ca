package main

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"sync"

	"golang.org/x/term"

	"softether-go/netstack"
	"softether-go/pkg/client"
	"softether-go/pkg/config"
	"softether-go/pkg/dhcp"
	"softether-go/pkg/netcfg"
	"softether-go/pkg/session"
	"softether-go/pkg/wire"
)

// connect is the main job.
func connect(ctx context.Context, args []string, t terminal) error {
	if len(args) == 0 {
		if _, ok := os.LookupEnv("SOFTETHER_HOST"); !ok {
			return printHelp(ctx, nil, t)
		}
	}
	cfg, err := loadConfig(args, t)
	if err != nil {
		return err
	}
	halveThreads()
	log := newLogger(cfg.Log, t)
	for _, note := range cfg.Notes {
		log.Warn(note)
	}
	if cfg.Mode == config.ModeTAP {
		return usageError{errors.New("TAP mode is not built yet; for the proxy mode, which needs no privilege, give -socks5 127.0.0.1:1080 or -http 127.0.0.1:8080")}
	}
	v, err := newVPN(ctx, cfg, log)
	if err != nil {
		return err
	}
	defer v.close()
	return v.run(ctx)
}

// halveThreads leaves half of the processors to others, unless GOMAXPROCS says
// otherwise. Each direction of a session is one goroutine's work, and idle threads
// that look for more of it cost more than they find: one download on two cores,
// three rounds in turns, took 3.3 CPU seconds per GB with two threads and 2.5 with
// one, which left the server more of the machine and was 7 % faster.
func halveThreads() {
	if _, set := os.LookupEnv("GOMAXPROCS"); !set {
		runtime.GOMAXPROCS(max(1, runtime.GOMAXPROCS(0)/2))
	}
}

func loadConfig(args []string, t terminal) (config.Config, error) {
	src := config.Source{}
	if term.IsTerminal(int(t.in.Fd())) {
		src.Prompt = t.askPassword
	}
	cfg, err := config.Load(args, src)
	return cfg, badConfig(err)
}

// badConfig marks what is wrong with the settings, unless it is a call for help.
func badConfig(err error) error {
	if err == nil || errors.Is(err, config.ErrHelp) {
		return err
	}
	return usageError{err}
}

// askPassword asks without showing what is typed.
func (t terminal) askPassword(question string) (string, error) {
	fmt.Fprint(t.err, question)
	b, err := term.ReadPassword(int(t.in.Fd()))
	fmt.Fprintln(t.err)
	return string(b), err
}

func newLogger(c config.Log, t terminal) *slog.Logger {
	options := &slog.HandlerOptions{Level: c.Level}
	if c.JSON {
		return slog.New(slog.NewJSONHandler(t.err, options))
	}
	options.ReplaceAttr = func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			a.Value = slog.StringValue(a.Value.Time().Format("15:04:05.000"))
		}
		return a
	}
	return slog.New(slog.NewTextHandler(t.err, options))
}

// vpn is one assembled program: a stack, the proxies on top of it, and the client
// that keeps a session below it.
type vpn struct {
	log     *slog.Logger
	stack   *netstack.Stack
	proxies *proxies
	client  *client.Client
	up      chan struct{} // closed when the tunnel is up for the first time
}

// newVPN builds everything and binds the listeners, so that what cannot work here
// fails before the server hears of us.
func newVPN(ctx context.Context, cfg config.Config, log *slog.Logger) (*vpn, error) {
	mac := cfg.Address.MAC
	if mac == nil {
		mac = randomMAC()
	}
	sc, err := sessionConfig(cfg)
	if err != nil {
		return nil, err
	}
	stack, err := netstack.New(netstack.Config{MAC: mac, Log: log})
	if err != nil {
		return nil, err
	}
	v := &vpn{log: log, stack: stack, up: make(chan struct{})}
	var once sync.Once
	if v.proxies, err = openProxies(ctx, cfg.Proxy, stack, log); err != nil {
		v.close()
		return nil, err
	}
	cc := client.Config{
		Session:        sc,
		Endpoint:       stack,
		Configurer:     stack,
		ReconnectDelay: cfg.Retry.Delay,
		ReconnectMax:   cfg.Retry.MaxDelay,
		OnState: func(s client.State) {
			if s == client.Up {
				once.Do(func() { close(v.up) })
			}
		},
		Log: log,
	}
	addressing(&cc, cfg.Address, mac, log)
	v.client = client.New(cc)
	return v, nil
}

// sessionConfig translates the settings about the server.
func sessionConfig(cfg config.Config) (session.Config, error) {
	sc := session.Config{
		Host: cfg.Server.Host, Port: int(cfg.Server.Port), Hub: cfg.Server.Hub,
		User: cfg.Auth.User, Password: cfg.Auth.Password.Reveal(),
		Trust: session.Trust{Insecure: cfg.Trust.Insecure},
	}
	switch cfg.Auth.Method {
	case config.HashedPassword:
		sc.Auth = wire.HashedPass
	case config.PlainPassword:
		sc.Auth = wire.PlainPassword
	case config.Anonymous:
		sc.Auth = wire.Anonymous
	}
	for _, pin := range cfg.Trust.Pins {
		sc.Trust.Pins = append(sc.Trust.Pins, pin)
	}
	if cfg.Trust.CAFile != "" {
		pem, err := os.ReadFile(cfg.Trust.CAFile)
		if err != nil {
			return sc, usageError{fmt.Errorf("-ca: %w", err)}
		}
		sc.Trust.Roots = x509.NewCertPool()
		if !sc.Trust.Roots.AppendCertsFromPEM(pem) {
			return sc, usageError{fmt.Errorf("-ca: %s holds no certificate in PEM form", cfg.Trust.CAFile)}
		}
	}
	return sc, nil
}

// addressing translates the settings about our address.
func addressing(cc *client.Config, a config.Addressing, mac net.HardwareAddr, log *slog.Logger) {
	own := netcfg.DNS{Servers: a.DNS, Search: a.Search}
	if a.NoDHCP {
		cc.Static = netcfg.Config{Address: a.Address, Gateway: a.Gateway, DNS: own}
		return
	}
	cc.DHCP = &dhcp.Config{MAC: mac, Hostname: a.Hostname, ClientID: a.ClientID, Log: log}
	cc.Adjust = func(c netcfg.Config) netcfg.Config {
		if len(own.Servers) > 0 {
			c.DNS.Servers = own.Servers
		}
		if len(own.Search) > 0 {
			c.DNS.Search = own.Search
		}
		return c
	}
}

// randomMAC returns a locally administered unicast address. 5E is what the
// official client's adapters begin with.
func randomMAC() net.HardwareAddr {
	mac := make(net.HardwareAddr, 6)
	rand.Read(mac)
	mac[0] = 0x5e
	return mac
}

// run serves until ctx ends or something fails for good. The proxies stop first,
// while the tunnel still carries their clients' last words.
func (v *vpn) run(ctx context.Context) error {
	below, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	ended := make(chan error, 2)
	go func() { ended <- v.client.Run(below) }()
	go func() { ended <- v.proxies.serve(below) }()
	var err error
	left := 2
	select {
	case <-ctx.Done():
		v.log.Info("stopping")
	case err = <-ended:
		left--
	}
	v.proxies.shutdown(v.client.State() == client.Up && err == nil)
	cancel()
	for range left {
		if e := <-ended; err == nil && !errors.Is(e, context.Canceled) {
			err = e
		}
	}
	return err
}

func (v *vpn) close() {
	if v.proxies != nil {
		v.proxies.shutdown(false)
	}
	if err := v.stack.Close(); err != nil {
		v.log.Debug("stack not closed", "cause", err)
	}
}

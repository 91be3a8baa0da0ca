package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"softether-go/pkg/addresses"
	"softether-go/pkg/client"
	"softether-go/pkg/config"
	"softether-go/pkg/health"
	"softether-go/pkg/privnet"
	"softether-go/pkg/session"
	"softether-go/pkg/share"
	"softether-go/pkg/vpn"
	"softether-go/pkg/wire"
)

// shareSocket returns where the VPN process of a shared session listens.
func shareSocket(name string) (string, error) {
	dir := filepath.Join(os.TempDir(), "softether-go-"+strconv.Itoa(os.Geteuid()))
	if runtime, ok := os.LookupEnv("XDG_RUNTIME_DIR"); ok && runtime != "" {
		dir = filepath.Join(runtime, "softether-go")
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return "", err
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); !ok || !info.IsDir() || int(owner.Uid) != os.Geteuid() || info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("%s is to be a directory that is ours alone: remove it, or set XDG_RUNTIME_DIR", dir)
	}
	return filepath.Join(dir, name+".sock"), nil
}

// lockShare waits for a lock on a socket's path: of two commands that start at once, one
// is to find the other's session.
func lockShare(path string) (unlock func(), err error) {
	lock, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	raw, err := lock.SyscallConn()
	if err == nil {
		controlErr := raw.Control(func(fd uintptr) { err = unix.Flock(int(fd), unix.LOCK_EX) })
		err = errors.Join(err, controlErr)
	}
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	return func() { lock.Close() }, nil
}

// A sharedVPN is a session that several commands use.
type sharedVPN struct {
	cfg      config.Config // of the first
	log      *slog.Logger
	sw       *share.Switch
	client   *client.Client
	listener *privnet.Listener
	ctx      context.Context // ends when nothing is served any more
	end      context.CancelFunc
	connect  func()         // the first time it is called
	running  sync.WaitGroup // all goroutines

	health   *health.Monitor
	stations stations

	nat    sync.Once                 // makes the two below, when the first command needs them
	lan    atomic.Pointer[lanBehind] // nil before
	lanErr error

	mu      sync.Mutex // guards all below
	members int
	failure *vpnReply // why the session ended for good
}

// serveShare serves the first command, by its front's connection, and all that attach
// until the last has ended.
func serveShare(ctx context.Context, cfg config.Config, first *privnet.Socket, log *slog.Logger) error {
	v := &sharedVPN{cfg: cfg, log: log, stations: stations{macs: map[string]bool{}, known: make(chan struct{})}}
	if err := v.open(ctx); err != nil {
		_ = first.Send(vpnReply{Error: err.Error(), Code: exitCode(err)}) // who is gone need not know
		return nil
	}
	v.enter()
	v.running.Go(func() { v.serve(first, &cfg) })
	v.running.Go(v.accept)
	<-v.ctx.Done()
	v.listener.Close()
	v.running.Wait()
	v.sw.Close()
	return nil // each front has been told
}

func (v *sharedVPN) open(ctx context.Context) error {
	path, err := shareSocket(v.cfg.Run.Share)
	if err != nil {
		return err
	}
	sc, err := sessionConfig(v.cfg, v.log)
	if err != nil {
		return err
	}
	sc.Bridge = true // else the hub takes us for a single station
	way, err := newDialer(v.cfg, v.log)
	if err != nil {
		return err
	}
	sc.DialContext = way.DialContext
	if v.sw, err = share.New(v.log); err != nil {
		return err
	}
	if v.listener, err = privnet.Listen(path); err != nil {
		return err
	}
	told, err := openTeller(ctx, v.cfg.Service.Health)
	if err != nil {
		v.listener.Close()
		return err
	}
	v.ctx, v.end = context.WithCancel(ctx)
	v.health = health.New(health.Config{Endpoint: v.sw.Uplink(), Log: v.log}) // the addresses are the commands'
	v.client = client.New(client.Config{
		Session: sc, Servers: vpn.Servers(serversOf(v.cfg.Server), v.cfg.Server.Fastest, way), Hurry: way.Changed(), Endpoint: v.health,
		ReconnectDelay: v.cfg.Retry.Delay, ReconnectMax: v.cfg.Retry.MaxDelay, OnWelcome: v.welcome, Log: v.log,
		Refresh: refresh(v.cfg.Auth, v.log), OnState: func(s client.State) { vpn.Enter(v.health, s) },
	})
	told.server = health.Server{Monitor: v.health, Metrics: func(w io.Writer) error { return writeMetrics(w, v.counters()) }}
	v.connect = sync.OnceFunc(func() {
		sayNotes(v.cfg, v.log)
		v.running.Go(func() { _ = v.sw.Run(v.ctx) })   // it ends with ctx
		v.running.Go(func() { _ = way.Watch(v.ctx) })  // so does it
		v.running.Go(func() { _ = told.serve(v.ctx) }) // and it
		v.running.Go(v.keep)
	})
	return nil
}

// keep keeps the session up, and tells all when it is lost for good.
func (v *sharedVPN) keep() {
	err := v.client.Run(v.ctx)
	if v.ctx.Err() == nil {
		v.mu.Lock()
		v.failure = &vpnReply{Error: err.Error(), Code: exitCode(err)}
		v.mu.Unlock()
	}
	v.end()
}

// welcome learns how many may share the session.
func (v *sharedVPN) welcome(w wire.Welcome) {
	limit, item := share.Stations(w.Policy)
	if beyond := v.stations.learn(limit, item); beyond > 0 {
		v.log.Warn("the hub drops what some of the commands send: its policy lets a session have fewer stations than before",
			"item", item, "at_most", limit, "too_many", beyond)
	}
}

func (v *sharedVPN) accept() {
	for {
		c, err := v.listener.Accept()
		if err != nil {
			return // closed
		}
		if !v.enter() {
			c.Close()
			return
		}
		v.running.Go(func() { v.serve(c, nil) })
	}
}

// enter counts a command in, unless the last has just left.
func (v *sharedVPN) enter() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.ctx.Err() != nil {
		return false
	}
	v.members++
	return true
}

// leave counts a command out. The session ends with the last.
func (v *sharedVPN) leave() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.members--; v.members == 0 {
		v.end()
	}
}

// serve serves one command. cfg is nil if it has still to come.
func (v *sharedVPN) serve(control *privnet.Socket, cfg *config.Config) {
	defer control.Close()
	defer v.leave()
	err := v.member(control, cfg)
	v.mu.Lock()
	last := v.failure
	v.mu.Unlock()
	if last == nil && err != nil && v.ctx.Err() == nil {
		last = &vpnReply{Error: err.Error(), Code: exitCode(err)}
	}
	if last != nil {
		_ = control.Send(*last) // a front that is gone need not know
	}
}

// member carries a command's frames until its namespace, its front or the session
// ends. An error is for the front.
func (v *sharedVPN) member(control *privnet.Socket, cfg *config.Config) error {
	if cfg == nil {
		var o vpnOrder
		if _, err := control.Receive(&o); err != nil {
			return nil
		}
		c, err := o.load()
		if err != nil {
			return badConfig(err)
		}
		cfg = &c
	}
	if err := v.refuse(*cfg); err != nil {
		return err
	}
	mac := v.stations.address(cfg.Address)
	defer v.stations.leave(mac)
	if control.Send(vpnReply{MAC: mac}) != nil {
		return nil
	}
	link, _, err := receiveLink(control, v.log)
	if link == nil {
		return err
	}
	defer link.Close()
	published, err := privnet.Publish(portsOf(cfg.Run), link, v.log)
	if err != nil {
		return err
	}
	end := roomEnd{link, published}
	ctx, cancel := context.WithCancel(v.ctx)
	defer cancel()
	var g sync.WaitGroup
	defer g.Wait()
	defer cancel()
	g.Go(func() {
		_ = end.Watch(ctx) // it says that the namespace has ended, or that ctx has
		cancel()
	})
	go func() {
		_, _ = control.Receive(&vpnOrder{}) // there are no more
		cancel()
	}()
	v.connect()
	select {
	case <-v.stations.known:
	case <-ctx.Done():
		return nil
	}
	if v.stations.enter(mac) {
		err = v.sw.Serve(ctx, share.Member{Endpoint: link, Configurer: link, Config: v.plan(cfg.Address, mac), Ready: readies(ctx, link)})
	} else {
		err = v.serveBehind(ctx, control, link, cfg.Address)
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// plan says how a command gets its addresses.
func (v *sharedVPN) plan(a config.Addressing, mac net.HardwareAddr) addresses.Config {
	who := session.Config{Hub: v.cfg.Server.Hub, User: v.cfg.Auth.User}
	return vpn.Config{Session: who, Address: addressing(a)}.Plan(mac, a.MAC != nil, v.log)
}

// readies returns what starts a link's command. Without a link there is none to start.
func readies(ctx context.Context, link *privnet.Link) func() {
	return func() { _ = link.Ready(ctx) }
}

// refuse says why a command cannot use the session.
func (v *sharedVPN) refuse(c config.Config) error {
	if c.Run.Attach == "" && (c.Server.Host != v.cfg.Server.Host || c.Server.Hub != v.cfg.Server.Hub || c.Auth.User != v.cfg.Auth.User) {
		return usageError{fmt.Errorf("-share: the session %s is of another server, hub or user: give this one another name", c.Run.Share)}
	}
	return nil
}

package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"softether-go/pkg/config"
	"softether-go/pkg/frame"
	"softether-go/pkg/privnet"
	"softether-go/pkg/tap"
)

// nameProcess gives a process that was started by /proc/self/exe its name in ps(1).
func nameProcess() { _ = os.WriteFile("/proc/self/comm", []byte("softether-go"), 0o644) }

// runInit is the first process in the namespaces.
func runInit(_ context.Context, args []string, _ terminal) error {
	nameProcess()
	if len(args) < 3 {
		return usageError{errors.New(initCommand + " is for softether-go run alone")}
	}
	link, err := strconv.Atoi(args[0])
	front, err2 := strconv.Atoi(args[1])
	if err = errors.Join(err, err2); err != nil {
		return usageError{err}
	}
	return privnet.Inside(link, front, privnet.Command{Path: args[2], Args: args[3:], Env: commandEnv(os.Environ())})
}

// commandEnv is the environment without what only we are to know.
func commandEnv(env []string) []string {
	secrets := config.SecretVariables()
	return slices.DeleteFunc(slices.Clone(env), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return slices.Contains(secrets, name)
	})
}

// A vpnOrder is what the front tells the VPN process, beside the link. Where settings
// came from, as a file or a pipe with the password, may not be there a second time.
type vpnOrder struct {
	Args []string // settings as flags, with their secrets: nobody else reads the socket

	Proxies bool // in place of the link: serve proxies
}

func newVPNOrder(cfg config.Config) vpnOrder {
	o := vpnOrder{Args: cfg.SecretFlags()}
	for _, s := range cfg.Settings {
		if s.Value == "" || s.Value == (config.Secret{}).String() || s.Name == "config" || s.Name == "mode" ||
			slices.Contains(config.SecretFiles, s.Name) {
			continue
		}
		o.Args = append(o.Args, "-"+s.Name+"="+s.Value)
	}
	return o
}

// load gives the settings back.
func (o vpnOrder) load() (config.Config, error) {
	return config.Load(o.Args, config.Source{
		Run: true,
		LookupEnv: func(name string) (string, bool) {
			if strings.EqualFold(name, "HTTPS_PROXY") { // for -proxy-from-env
				return os.LookupEnv(name)
			}
			return "", false
		},
	})
}

// A vpnReply is what the VPN process tells the front: at first which address the command's
// interface is to have, later at most why there is no network any more.
type vpnReply struct {
	MAC   net.HardwareAddr
	Env   []string // variables that name the proxies, once these work
	Note  string   // what the user is to know, in a message of its own
	Error string
	Code  int // the exit code that goes with the error
}

// failure is what the reply's error is to the front.
func (r vpnReply) failure() error { return commandExit{r.Code, errors.New(r.Error)} }

// runVPN is the process that holds the session, until the front or the namespace
// has ended, or with -share the last of those that use it.
func runVPN(ctx context.Context, args []string, t terminal) error {
	nameProcess()
	if len(args) > 0 {
		return usageError{errors.New(vpnCommand + " is for softether-go run alone")}
	}
	control, err := privnet.NewSocket(os.NewFile(3, "control"))
	if err != nil {
		return usageError{errors.New(vpnCommand + " is for softether-go run alone")}
	}
	defer control.Close()
	var o vpnOrder
	if _, err := control.Receive(&o); err != nil {
		return nil // the front has ended
	}
	cfg, err := o.load()
	if err != nil {
		return badConfig(err)
	}
	halveThreads()
	log := newLogger(cfg.Log, t)
	if cfg.Run.Share != "" {
		return serveShare(ctx, cfg, control, log)
	}
	if err := control.Send(vpnReply{MAC: ownMAC(cfg.Address)}); err != nil {
		return nil
	}
	link, proxies, err := receiveLink(control, log)
	if link == nil && !proxies {
		return err
	}
	sayNotes(cfg, log)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		_, _ = control.Receive(&vpnOrder{}) // there are no more
		cancel()
	}()
	if proxies {
		return serveProxies(ctx, cfg, control, log)
	}
	return serveRoom(ctx, cfg, link, log)
}

// sayNotes says what deserves a warning, once it is known that it matters.
func sayNotes(cfg config.Config, log *slog.Logger) {
	for _, note := range cfg.Notes {
		log.Warn(note)
	}
}

// receiveLink waits for the namespace. It may not come: then proxies may be asked for, or
// nothing.
func receiveLink(control *privnet.Socket, log *slog.Logger) (link *privnet.Link, proxies bool, err error) {
	var o vpnOrder
	files, err := control.Receive(&o)
	if err != nil || len(files) == 0 {
		return nil, err == nil && o.Proxies, nil // the front says what was wrong
	}
	link, err = privnet.NewLink(files[0], log)
	return link, false, err
}

// serveRoom gives the namespace its network until ctx or the namespace ends.
func serveRoom(ctx context.Context, cfg config.Config, link *privnet.Link, log *slog.Logger) error {
	published, err := privnet.Publish(portsOf(cfg.Run), link, log)
	if err != nil {
		link.Close()
		return err
	}
	v, err := newProgramOn(ctx, roomEnd{link, published}, cfg, log)
	if err != nil {
		return err
	}
	defer v.close()
	err = v.run(ctx)
	gone := errors.Is(err, privnet.ErrEnded) || errors.Is(err, tap.ErrGone)
	select {
	case <-link.Done():
		if gone {
			return nil
		}
	default:
	}
	return err
}

func portsOf(r config.Run) (ports []privnet.Port) {
	for _, p := range r.Publish {
		ports = append(ports, privnet.Port{Network: p.Network, Listen: p.Listen, Inside: p.Port})
	}
	return ports
}

// roomEnd is the TAP in a command's network, and the ports that lead there.
type roomEnd struct {
	*privnet.Link
	published *privnet.Published
}

// Run carries frames, which it is to as soon as there is an address.
func (e roomEnd) Run(ctx context.Context, dst frame.Writer) error {
	if err := e.Ready(ctx); err != nil {
		return err
	}
	return e.Link.Run(ctx, dst)
}

// Watch serves the published ports until the namespace ends.
func (e roomEnd) Watch(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-e.Done():
			cancel(privnet.ErrEnded)
		case <-ctx.Done():
		}
	}()
	_ = e.published.Serve(ctx) // it ends with ctx, which has the cause
	return context.Cause(ctx)
}

// Close closes the ports and gives the interface up.
func (e roomEnd) Close() error {
	e.published.Close()
	return e.Link.Close()
}

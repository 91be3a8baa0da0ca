package main

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net/url"
	"os"
	"runtime"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"softether-go/pkg/config"
	"softether-go/pkg/privnet"
)

// serveProxies is what the VPN process does for a command that has no network of its
// own: it serves proxies on loopback, to whoever knows what only the command is told.
func serveProxies(ctx context.Context, cfg config.Config, control *privnet.Socket, log *slog.Logger) error {
	cfg.Mode, cfg.Run = config.ModeNetstack, config.Run{}
	cfg.Proxy = config.Proxy{SOCKS5: []string{"127.0.0.1:0"}, HTTP: []string{"127.0.0.1:0"},
		User: "run", Password: config.NewSecret(rand.Text())}
	v, err := newProgram(ctx, cfg, log)
	if err != nil {
		return err
	}
	defer v.close()
	go func() {
		select {
		case <-v.Up():
			_ = control.Send(vpnReply{Env: proxyEnv(v.proxies.urls(), cfg.Proxy)}) // a front that is gone ends ctx
		case <-ctx.Done():
		}
	}()
	return v.run(ctx)
}

// proxyEnv names the two proxies, SOCKS5 first, by the variables that programs know.
func proxyEnv(urls []string, p config.Proxy) (env []string) {
	with := func(s string) string {
		u, err := url.Parse(s)
		if err != nil {
			return s
		}
		u.User = url.UserPassword(p.User, p.Password.Reveal())
		return u.String()
	}
	socks, http := with(urls[0]), with(urls[1])
	return []string{"ALL_PROXY=" + socks, "all_proxy=" + socks,
		"HTTP_PROXY=" + http, "http_proxy=" + http, "HTTPS_PROXY=" + http, "https_proxy=" + http,
		"NO_PROXY=localhost,127.0.0.1,::1", "no_proxy=localhost,127.0.0.1,::1"}
}

// A bareCommand runs in no namespace but ours.
type bareCommand struct{ process chan *os.Process } // holds it while it runs

// useProxies has the VPN process serve proxies, and starts the command when these work.
func (f *front) useProxies(path string, argv []string) {
	events := make(chan privnet.Event, 16)
	b := bareCommand{make(chan *os.Process, 1)}
	f.room, f.events = b, events
	_ = f.control.Send(vpnOrder{Proxies: true}) // a VPN process that is gone tells why by its end
	go func() {
		defer close(events)
		var r vpnReply
		if _, err := f.control.Receive(&r); err == nil && len(r.Env) > 0 {
			b.run(path, argv, append(commandEnv(os.Environ()), r.Env...), events)
		}
	}()
}

// run runs the command to its end.
func (b bareCommand) run(path string, argv, env []string, events chan<- privnet.Event) {
	runtime.LockOSThread() // for as long as the command lives: if we are killed, it is too
	defer runtime.UnlockOSThread()
	p, err := os.StartProcess(path, argv, &os.ProcAttr{Env: env, Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
		Sys: &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}})
	if err != nil {
		events <- privnet.Event{Exited: &privnet.Exit{Code: 126, Why: err.Error()}}
		return
	}
	b.process <- p
	events <- privnet.Event{Started: true}
	for {
		var status unix.WaitStatus
		_, err := unix.Wait4(p.Pid, &status, unix.WUNTRACED, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err == nil && status.Stopped():
			events <- privnet.Event{Stopped: int(status.StopSignal())}
			continue
		}
		<-b.process
		code := status.ExitStatus()
		if status.Signaled() {
			code = 128 + int(status.Signal())
		}
		events <- privnet.Event{Exited: &privnet.Exit{Code: code}}
		return
	}
}

// Signal sends a signal to the command, if it runs. Of the keyboard's it has its own if
// our process group is that of the terminal's foreground.
func (b bareCommand) Signal(s syscall.Signal) error {
	if slices.Contains(ofKeyboard, s) && inForeground() {
		return nil
	}
	select {
	case p := <-b.process:
		defer func() { b.process <- p }()
		return unix.Kill(p.Pid, s)
	default:
		return nil
	}
}

// Close kills the command, if it runs.
func (b bareCommand) Close() { _ = b.Signal(unix.SIGKILL) }

// inForeground reports whether the keyboard's signals go to our process group.
func inForeground() bool {
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return false // no terminal is ours
	}
	defer tty.Close()
	group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

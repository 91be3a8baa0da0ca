package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"softether-go/pkg/config"
	"softether-go/pkg/vpn"
)

// toolPatience bounds the wait of a command that somebody sits before: for the tunnel, and
// for a host in it.
const toolPatience = 30 * time.Second

// netcat joins the standard input and output to a port in the VPN, as nc does, in a
// session of its own. It is for ssh's ProxyCommand, so it is silent unless it fails.
func netcat(ctx context.Context, args []string, t terminal) error {
	flags, words, err := cutWords("nc", args, "a host and a port", "build.corp 22")
	if err != nil {
		return err
	}
	tunnel, err := dialTool(ctx, flags, t)
	if err != nil {
		return err
	}
	defer tunnel.Close()
	if a, err := netip.ParseAddr(words[0]); err == nil && a.Is6() {
		awaitIPv6(ctx, tunnel)
	}
	dialing, cancel := context.WithTimeout(ctx, toolPatience)
	defer cancel()
	conn, err := tunnel.DialContext(dialing, "tcp", net.JoinHostPort(words[0], words[1]))
	if err != nil {
		return fmt.Errorf("nc: %w", err)
	}
	defer conn.Close()
	return join(ctx, conn, tunnel, t)
}

// cutWords takes the words off that a command takes after the flags: as many as the example has.
func cutWords(command string, args []string, what, example string) (flags, words []string, err error) {
	flags, words, err = config.CutWords(args)
	switch {
	case errors.Is(err, config.ErrHelp):
		return nil, nil, err
	case err != nil:
		return nil, nil, usageError{err}
	case len(words) != len(strings.Fields(example)):
		return nil, nil, usageError{fmt.Errorf("%s takes %s, after the flags: softether-go %s -config office.conf %s", command, what, command, example)}
	}
	return flags, words, nil
}

// dialTool joins the VPN for a command that uses it itself.
func dialTool(ctx context.Context, flags []string, t terminal) (*vpn.Tunnel, error) {
	cfg, err := loadTool(flags, t)
	if err != nil {
		return nil, err
	}
	log := newLogger(cfg.Log, t)
	vc, err := vpnConfig(cfg, log)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, toolPatience)
	defer cancel()
	tunnel, err := vpn.Dial(ctx, vc)
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("no session and address within %v: %w", toolPatience, err)
	}
	return tunnel, err
}

// awaitIPv6 waits for an IPv6 address for as long as routers and the search for another
// with it take, where there are any: what is to use it fails if there is none.
func awaitIPv6(ctx context.Context, tunnel *vpn.Tunnel) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_ = tunnel.AwaitIPv6(ctx)
}

// lastWords is how long the peer's direction may go on when ours has failed.
const lastWords = time.Second

// join carries both ways until the peer has said all and so have we. The end of one
// direction is passed on by halves; what is typed does not keep us once the peer is done.
func join(ctx context.Context, conn net.Conn, tunnel *vpn.Tunnel, t terminal) error {
	up, down := make(chan error, 1), make(chan error, 1)
	go func() { // ends with the process: a read from a terminal cannot be ended
		_, err := io.Copy(conn, t.in)
		if err == nil {
			err = conn.(interface{ CloseWrite() error }).CloseWrite()
		}
		up <- err
	}()
	go func() { // awaited below, or ended by conn's Close
		_, err := io.Copy(t.out, conn)
		if f, ok := t.out.(*os.File); ok { // for the reader to hear of the end now
			_ = f.Close()
		}
		down <- err
	}()
	interactive := term.IsTerminal(int(t.in.Fd()))
	var failed error
	for up != nil || down != nil {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tunnel.Done():
			return tunnel.Err()
		case failed = <-up:
			up = nil
			if failed != nil {
				_ = conn.SetReadDeadline(time.Now().Add(lastWords))
			}
		case err := <-down:
			if err != nil || failed != nil || interactive {
				return prefixed("nc", cmp.Or(failed, err))
			}
			down = nil
		}
	}
	return prefixed("nc", failed)
}

func prefixed(command string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", command, err)
}

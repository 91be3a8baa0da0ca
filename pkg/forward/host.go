package forward

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"
)

// Host is this machine as a Network, Unix sockets included. Its own resolver looks names
// up.
type Host struct{}

// DialContext connects.
func (Host) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, network, address)
}

// Listen listens. A Unix socket is for this user alone, and takes the place of one that
// nobody listens at any more.
func (Host) Listen(network, address string) (net.Listener, error) {
	if network != "unix" {
		return net.Listen(network, address)
	}
	ln, err := net.Listen(network, address)
	if errors.Is(err, syscall.EADDRINUSE) && abandoned(address) && os.Remove(address) == nil {
		ln, err = net.Listen(network, address)
	}
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(address, 0o600); err != nil {
		ln.Close()
		return nil, err
	}
	return ln, nil
}

// abandoned reports whether path is a socket that nobody listens at.
func abandoned(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Type() != fs.ModeSocket {
		return false
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		c.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// ListenPacket receives datagrams.
func (Host) ListenPacket(network, address string) (net.PacketConn, error) {
	return net.ListenPacket(network, address)
}

package forward

import (
	"context"
	"net"

	"softether-go/pkg/binding"
	"softether-go/pkg/unixsock"
)

// Host is this machine, as a Listener and a Dialer, Unix sockets included. Its own
// resolver looks names up.
type Host struct{}

// DialContext connects.
func (Host) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, network, address)
}

// Listen listens. A Unix socket is for this user alone, and takes the place of one that
// nobody listens at any more.
func (Host) Listen(network, address string) (net.Listener, error) {
	if network == "unix" {
		return unixsock.Listen(address, unixsock.Private)
	}
	ln, err := net.Listen(network, address)
	return ln, binding.Explain(err)
}

// ListenPacket receives datagrams.
func (Host) ListenPacket(network, address string) (net.PacketConn, error) {
	pc, err := net.ListenPacket(network, address)
	return pc, binding.Explain(err)
}

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
	ln, err := net.Listen(binding.Network(network, address), address)
	return ln, binding.Explain(err)
}

// ListenPacket receives datagrams, and answers each from the address that it was sent to.
func (Host) ListenPacket(_, address string) (net.PacketConn, error) {
	pc, err := binding.ListenUDP(context.Background(), address) // which does not wait: it looks nothing up
	if err != nil {
		return nil, binding.Explain(err)
	}
	return pc, nil
}

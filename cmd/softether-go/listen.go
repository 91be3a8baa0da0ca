package main

import (
	"cmp"
	"context"
	"io/fs"
	"net"
	"slices"
	"strconv"
	"strings"

	"softether-go/pkg/config"
	"softether-go/pkg/unixsock"
	"softether-go/proxy"
)

// An opener opens listeners, of whatever form their addresses have.
type opener struct {
	auth     proxy.Auth
	exposure proxy.Exposure
	mode     fs.FileMode // of Unix sockets
	passed   inherited
}

func newOpener(c config.Proxy, auth proxy.Auth) *opener {
	o := &opener{auth: auth, exposure: proxy.LoopbackOnly, mode: cmp.Or(fs.FileMode(c.SocketMode), unixsock.Private)}
	if c.Open {
		o.exposure = proxy.AllowOpen
	}
	o.passed = newInherited(passedSockets(), slices.Concat(c.Mixed, c.SOCKS5, c.HTTP, c.HTTPS))
	return o
}

// listen opens what an address means: one listener, but for systemd's.
func (o *opener) listen(ctx context.Context, address string) (lns []net.Listener, err error) {
	form, rest, _ := strings.Cut(address, ":")
	var ln net.Listener
	switch form {
	case "unix":
		ln, err = unixsock.Listen(rest, o.mode)
	case "fd":
		n, _ := strconv.Atoi(rest) // which config has checked
		ln, err = o.passed.byNumber(n)
	case "systemd":
		lns, err = o.passed.byName(rest)
	default:
		ln, err = proxy.Listen(ctx, address, o.auth, o.exposure)
	}
	if err != nil {
		return nil, err
	}
	if ln != nil {
		lns = append(lns, ln)
	}
	for _, ln := range lns {
		if err := proxy.Admit(ln, o.auth, o.exposure); err != nil {
			closeAll(lns)
			return nil, err
		}
	}
	return lns, nil
}

package binding

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// own are the addresses of this machine's interfaces, and the networks that they are in.
var own struct {
	mu   sync.Mutex // guards what follows
	seen time.Time
	all  map[netip.Addr]netip.Prefix
}

// ownFresh is how old they may be: short for who gives the machine an address, and long
// enough that datagrams can be judged by them.
const ownFresh = time.Second

// OwnNetwork reports whether an interface of this machine has an address, and in which
// network of it that is.
func OwnNetwork(a netip.Addr) (netip.Prefix, bool) {
	own.mu.Lock()
	defer own.mu.Unlock()
	if now := time.Now(); own.all == nil || now.Sub(own.seen) >= ownFresh {
		own.seen = now
		if all, err := net.InterfaceAddrs(); err == nil { // else those of before are better than none
			own.all = networks(all)
		}
	}
	p, ok := own.all[a.Unmap().WithZone("")]
	return p, ok
}

func networks(addrs []net.Addr) map[netip.Addr]netip.Prefix {
	all := make(map[netip.Addr]netip.Prefix, len(addrs))
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			all[p.Addr()] = p.Masked()
		}
	}
	return all
}

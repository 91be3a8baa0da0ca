package host

import (
	"fmt"
	"log/slog"
	"strings"

	"softether-go/pkg/netcfg/host/resolv"
)

// DefaultStateDir is where instances keep their journals.
const DefaultStateDir = "/run/softether-go"

// Options say what of a configuration to put on the host. The address, its subnet
// and the MTU always are.
type Options struct {
	AcceptDefaultGateway bool // default route by the VPN's gateway, metric 50
	AcceptStaticRoutes   bool // classless routes; a default among them needs AcceptDefaultGateway
	AcceptDNS            bool // use the lease's name servers
	PolicyTable          int  // table for packets from our address; 0 means none
	ConnMark             bool // route replies of connections that came by the TAP there too; needs PolicyTable
	BlockIPv6            bool // with AcceptDefaultGateway: no IPv6 beside the tunnel
	SLAAC                bool // let the kernel configure IPv6 on the TAP by router advertisements

	StateDir string // empty means DefaultStateDir
	Root     string // where etc/resolv.conf and run are found; empty means /
}

// A Config says what to open and how.
type Config struct {
	Interface string // name of the TAP; required
	Options
	Log *slog.Logger // nil discards
}

func (c Config) withDefaults() Config {
	if c.StateDir == "" {
		c.StateDir = DefaultStateDir
	}
	if c.Root == "" {
		c.Root = "/"
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// resolver is the configuration of an instance's name servers.
func (c Config) resolver(tap string, index int) resolv.Config {
	return resolv.Config{Interface: tap, Index: index, Root: c.Root, Log: c.Log}
}

// check finds what cannot work on any host.
func (c Config) check() error {
	switch t := c.PolicyTable; {
	case c.Interface == "" || len(c.Interface) > maxInterfaceName || strings.ContainsAny(c.Interface, "/ \t\n") ||
		c.Interface == "." || c.Interface == "..":
		return fmt.Errorf("%q is no name of an interface: up to %d characters without spaces and slashes",
			c.Interface, maxInterfaceName)
	case c.ConnMark && t == 0:
		return fmt.Errorf("marks of connections need a table to route by: add -policy-route-table")
	case t >= tableDefault && t <= tableLocal:
		return fmt.Errorf("policy table %d is the kernel's own: choose another, such as 200", t)
	case t < 0 || t >= keepBase && t <= keepBase+keepSpan:
		return fmt.Errorf("policy table %d is out of range: choose one such as 200", t)
	}
	return nil
}

const maxInterfaceName = 15 // IFNAMSIZ less its zero byte

package resolv

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/godbus/dbus/v5"
)

// resolved speaks to systemd-resolved: org.freedesktop.resolve1(5).
type resolved struct{ socket string }

const (
	resolvedName  = "org.freedesktop.resolve1"
	resolvedPath  = "/org/freedesktop/resolve1"
	resolvedIface = "org.freedesktop.resolve1.Manager."
)

func newResolved(root string) resolved {
	return resolved{filepath.Join(root, "run/dbus/system_bus_socket")}
}

// with runs calls on one connection.
func (r resolved) with(ctx context.Context, calls func(*dbus.Conn) error) error {
	conn, err := dbus.Dial("unix:path="+dbus.EscapeBusAddressValue(r.socket), dbus.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("connect to D-Bus: %w", err)
	}
	defer conn.Close()
	if err := conn.Auth(nil); err != nil {
		return fmt.Errorf("log in to D-Bus: %w", err)
	}
	if err := conn.Hello(); err != nil {
		return fmt.Errorf("greet D-Bus: %w", err)
	}
	return calls(conn)
}

// answers reports whether the service is there.
func (r resolved) answers(ctx context.Context) bool {
	there := false
	err := r.with(ctx, func(c *dbus.Conn) error {
		return c.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.NameHasOwner", 0, resolvedName).Store(&there)
	})
	return err == nil && there
}

// The arguments of the service's methods.
type (
	linkDNS struct {
		Family  int32
		Address []byte
	}
	linkDomain struct {
		Domain    string
		RouteOnly bool
	}
)

const (
	familyV4 = 2  // AF_INET
	familyV6 = 10 // AF_INET6
)

// set gives a link its servers. All names are asked there: the domain "~." has
// every name in it. If it fails, the link has none.
func (r resolved) set(ctx context.Context, index int, n Names) error {
	var servers []linkDNS
	for _, s := range n.Servers {
		family := int32(familyV4)
		if s.Is6() {
			family = familyV6
		}
		servers = append(servers, linkDNS{family, s.AsSlice()})
	}
	domains := []linkDomain{}
	for _, d := range n.Search {
		domains = append(domains, linkDomain{d, false})
	}
	domains = append(domains, linkDomain{".", true})
	changed := false
	err := r.with(ctx, func(c *dbus.Conn) error {
		call := caller(ctx, c)
		if err := call("SetLinkDNS", int32(index), servers); err != nil {
			return err
		}
		changed = true
		if err := call("SetLinkDomains", int32(index), domains); err != nil {
			return err
		}
		err := call("SetLinkDefaultRoute", int32(index), true)
		var unknown dbus.Error
		if errors.As(err, &unknown) && unknown.Name == "org.freedesktop.DBus.Error.UnknownMethod" {
			err = nil // before systemd 240 the domain alone decides
		}
		if err != nil {
			return err
		}
		return call("FlushCaches")
	})
	if err != nil && changed {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience) // also when ctx has ended
		defer cancel()
		return errors.Join(err, r.revert(ctx, index))
	}
	return err
}

// revert takes a link's servers away.
func (r resolved) revert(ctx context.Context, index int) error {
	return r.with(ctx, func(c *dbus.Conn) error {
		call := caller(ctx, c)
		return errors.Join(call("RevertLink", int32(index)), call("FlushCaches"))
	})
}

func caller(ctx context.Context, c *dbus.Conn) func(method string, args ...any) error {
	object := c.Object(resolvedName, resolvedPath)
	return func(method string, args ...any) error {
		if err := object.CallWithContext(ctx, resolvedIface+method, 0, args...).Err; err != nil {
			return fmt.Errorf("%s of systemd-resolved: %w", method, err)
		}
		return nil
	}
}

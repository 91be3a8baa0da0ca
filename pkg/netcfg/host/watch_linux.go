package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// settle is how long to wait for more to happen: one change of a network is
	// many messages, of the link, its addresses and its routes.
	settle = 50 * time.Millisecond
	// rest is the least time between two looks, so that someone who keeps removing
	// what we add does not keep us busy.
	rest = 500 * time.Millisecond
)

// watchGroups are the kernel's announcements that may concern us.
const watchGroups = 1<<(unix.RTNLGRP_LINK-1) | 1<<(unix.RTNLGRP_IPV4_IFADDR-1) | 1<<(unix.RTNLGRP_IPV4_ROUTE-1) |
	1<<(unix.RTNLGRP_IPV4_RULE-1) | 1<<(unix.RTNLGRP_IPV6_IFADDR-1) | 1<<(unix.RTNLGRP_IPV6_ROUTE-1) |
	1<<(unix.RTNLGRP_IPV6_RULE-1)

// Watch follows the host: when a gateway, an interface or an address changes, the
// ways around the tunnel change with it, and what of ours someone removed comes
// back. It returns ctx.Err() when ctx ends, or net or system errors of listening.
// A change that cannot be followed is logged, and tried again at the next one.
func (h *Host) Watch(ctx context.Context) error {
	events, err := listen()
	if err != nil {
		return fmt.Errorf("host: watch: %w", err)
	}
	defer events.Close()
	stop := context.AfterFunc(ctx, func() { events.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, 1<<16)
	for {
		h.follow(ctx) // also what changed before we listened
		err := h.await(ctx, events, buf)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("host: watch: %w", err)
		}
	}
}

// await returns when something has happened and the host has been quiet since.
func (h *Host) await(ctx context.Context, events *os.File, buf []byte) error {
	pause := time.NewTimer(rest)
	defer pause.Stop()
	select { // what happens meanwhile waits in the socket
	case <-ctx.Done():
		return nil
	case <-pause.C:
	}
	if err := readEvent(events, buf); err != nil {
		return err
	}
	for until := time.Now().Add(rest); ctx.Err() == nil && time.Now().Before(until); {
		events.SetReadDeadline(time.Now().Add(settle))
		err := readEvent(events, buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			return err
		}
	}
	events.SetReadDeadline(time.Time{}) // may undo ctx's: the caller looks at it next
	return nil
}

// readEvent waits for one. That some were lost is an event too.
func readEvent(events *os.File, buf []byte) error {
	_, err := events.Read(buf)
	if errors.Is(err, unix.ENOBUFS) {
		return nil
	}
	return err
}

// listen opens a socket that hears the kernel's announcements.
func listen() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: watchGroups}); err != nil {
		syscall.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	return os.NewFile(uintptr(fd), "netlink"), nil
}

// follow reconciles with the host as it is now.
func (h *Host) follow(ctx context.Context) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || ctx.Err() != nil {
		return
	}
	h.wish.InForce = true // what the host is now cannot undo that the lease was accepted
	defer func() { h.wish.InForce = false }()
	if err := h.reconcile(ctx); err != nil && ctx.Err() == nil {
		h.cfg.Log.Warn("the host changed and the tunnel's routes could not follow", "interface", h.cfg.Interface, "cause", err)
	}
}

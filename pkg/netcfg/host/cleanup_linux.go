package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"softether-go/pkg/netcfg/host/resolv"
)

// CleanUp removes what instances left that were killed, and only that; of cfg it
// uses StateDir, Root and Log. An instance is dead if its lock is free, or, where
// its journal is lost too, if its TAP is gone.
func CleanUp(ctx context.Context, cfg Config) error {
	cfg = cfg.withDefaults().inNamespace()
	cfg.Interface = ""
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("host: clean up: open netlink: %w", err)
	}
	defer nl.Close()
	turn, err := lockTurn(cfg.StateDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EROFS) {
		return fmt.Errorf("host: clean up: %w", err)
	}
	defer turn.release()
	if err := cleanUp(ctx, cfg, nl, false); err != nil {
		return fmt.Errorf("host: clean up: %w", err)
	}
	return nil
}

// cleanUp is CleanUp for an instance on cfg.Interface, whose lock the caller may
// hold already. The caller has the turn.
func cleanUp(ctx context.Context, cfg Config, nl *netlink.Handle, locked bool) error {
	taps, err := journals(cfg.StateDir)
	errs := []error{err}
	for _, tap := range resolv.Left(cfg.Root) { // a power cut takes the journals, not these
		mine := locked && tap == cfg.Interface
		if mine || !slices.Contains(taps, tap) && !livesElsewhere(cfg.StateDir, tap) && !hasTAP(nl, tap) {
			taps = append(taps, tap)
		}
	}
	slices.Sort(taps)
	taps = slices.Compact(taps)
	for _, tap := range taps {
		if locked && tap == cfg.Interface {
			errs = append(errs, bury(ctx, cfg, nl, tap))
			continue
		}
		l, err := lockInstance(cfg.StateDir, tap)
		if errors.Is(err, errHeld) {
			continue
		}
		if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EROFS) {
			err = bury(ctx, cfg, nl, tap)
			l.remove()
		}
		errs = append(errs, err)
	}
	return errors.Join(append(errs, cleanOrphans(ctx, cfg, nl), cleanTables(cfg, nl))...)
}

// hasTAP reports whether there may be an instance in a container that shares our
// network and resolv.conf, but not our other files.
func hasTAP(nl *netlink.Handle, tap string) bool {
	_, err := nl.LinkByName(tap)
	return !errors.As(err, &netlink.LinkNotFoundError{})
}

// livesElsewhere reports whether an instance for that TAP lives in another network
// namespace, which may share our files.
func livesElsewhere(dir, tap string) bool {
	locks, _ := filepath.Glob(lockPath(filepath.Join(filepath.Dir(dir), "*"), tap))
	return slices.ContainsFunc(locks, func(path string) bool {
		l, err := openLock(path, unix.LOCK_EX|unix.LOCK_NB)
		l.release()
		return filepath.Dir(path) != dir && errors.Is(err, unix.EWOULDBLOCK)
	})
}

// bury takes back what a dead instance's journal and the marks on its routes and
// rules tell. Whoever calls it holds the lock.
func bury(ctx context.Context, cfg Config, nl *netlink.Handle, tap string) error {
	j, err := readJournal(cfg.StateDir, tap)
	if errors.Is(err, fs.ErrNotExist) {
		return resolv.Bury(ctx, cfg.resolver(tap, 0))
	}
	if err != nil {
		return fmt.Errorf("%w; remove it if no instance is to be cleaned up", err)
	}
	sameBoot := j.Boot == bootID()
	errs := []error{resolv.Bury(ctx, cfg.resolver(tap, j.Index))}
	if sameBoot {
		errs = append(errs, buryState(ctx, cfg, nl, j))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%s: %w", tap, err)
	}
	cfg.Log.Info("cleaned up after an instance that was killed", "interface", tap, "pid", j.PID)
	return os.Remove(journalPath(cfg.StateDir, tap))
}

// buryState takes back what is in the kernel.
func buryState(ctx context.Context, cfg Config, nl *netlink.Handle, j journal) error {
	v, err := look(nl, j.Interface, nil)
	if err != nil {
		return err
	}
	have := v.mine(j.Index, j.PolicyTable)
	var wanted []item
	if v.TAP.Index == j.Index { // a TAP that outlives its program
		have = append(have, link{Up: v.TAP.Up, MTU: v.TAP.MTU})
		wanted = append(wanted, j.Link)
		for _, a := range v.Addresses {
			if a.Dev == j.Index && slices.Contains(j.Addresses, a.Prefix) {
				have = append(have, address{a.Prefix})
			}
		}
	}
	for _, s := range j.Settings {
		have = append(have, s)
	}
	return errors.Join(takeAll(ctx, cfg, &actor{nl: nl, tap: v.TAP}, plan(have, wanted)), dropTable(j.Interface))
}

func takeAll(ctx context.Context, cfg Config, a *actor, steps []step) error {
	var errs []error
	for _, s := range steps {
		cfg.Log.Debug("clean up", "step", s.String())
		errs = append(errs, a.take(ctx, s))
	}
	return errors.Join(errs...)
}

// cleanOrphans removes routes and rules whose journal is lost: that of a container
// which is gone while the network it shared is not.
func cleanOrphans(ctx context.Context, cfg Config, nl *netlink.Handle) error {
	v, err := look(nl, cfg.Interface, nil)
	if err != nil {
		return err
	}
	return takeAll(ctx, cfg, &actor{nl: nl}, plan(v.orphans(), nil))
}

// cleanTables removes tables of marks that have no owner and no TAP.
func cleanTables(cfg Config, nl *netlink.Handle) error {
	c, err := nftables.New()
	if err != nil {
		return nil
	}
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil // no nf_tables, no tables
	}
	var errs []error
	for _, t := range tables {
		tap, ours := strings.CutPrefix(t.Name, tableName(""))
		if !ours || t.Flags&ownerFlag != 0 {
			continue
		}
		if !hasTAP(nl, tap) {
			errs = append(errs, dropTable(tap))
		}
	}
	return errors.Join(errs...)
}

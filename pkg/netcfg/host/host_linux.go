package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"softether-go/pkg/netcfg"
	"softether-go/pkg/netcfg/host/resolv"
)

// A Host is the kernel's network stack as one tunnel configures it.
type Host struct {
	cfg   Config
	index int
	mac   [6]byte
	lock  *lock // nil if the state directory cannot be written
	nl    *netlink.Handle
	noNFT error // why there are no marks, nil if there are

	mu     sync.Mutex // guards all below; held while the host is changed
	closed bool
	wish   wish
	held   held
	act    actor
}

// Open prepares to configure the host for a TAP that exists. It removes what dead
// instances left, changes nothing else, and fails if the options cannot work here.
func Open(cfg Config) (*Host, error) {
	cfg = cfg.withDefaults().inNamespace()
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("host: %w", err)
	}
	h := &Host{cfg: cfg, wish: wish{Options: cfg.Options}, held: held{settings: map[string]setting{}}}
	if err := h.open(); err != nil {
		h.free()
		return nil, fmt.Errorf("host: %s: %w", cfg.Interface, err)
	}
	return h, nil
}

func (h *Host) open() error {
	var err error
	if h.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	turn, err := h.takeLock()
	if err != nil {
		return err
	}
	defer turn.release()
	if err := cleanUp(context.Background(), h.cfg, h.nl, h.lock != nil); err != nil {
		h.cfg.Log.Warn("left-overs of a dead instance stay", "cause", err)
	}
	v, err := h.look()
	if err != nil {
		return err
	}
	if v.TAP.Index == 0 || v.TAP.Index > keepSpan {
		return fmt.Errorf("no such interface")
	}
	h.index, h.mac = v.TAP.Index, v.TAP.MAC
	h.wish.LinkWas = link{Up: v.TAP.Up, MTU: v.TAP.MTU}
	h.noNFT = probeNFT()
	if h.noNFT != nil && h.cfg.ConnMark {
		return fmt.Errorf("mark connections: %w", h.noNFT)
	}
	if h.noNFT != nil && h.cfg.BlockIPv6 && h.cfg.AcceptDefaultGateway {
		return fmt.Errorf("block IPv6: %w", h.noNFT)
	}
	if h.noNFT != nil && (h.cfg.AcceptDefaultGateway || h.cfg.AcceptStaticRoutes) {
		h.cfg.Log.Warn("forwarded connections that came by other interfaces will be answered by the tunnel",
			"cause", h.noNFT)
	}
	h.act = actor{nl: h.nl, tap: v.TAP, marks: &nftTable{name: tableName(h.cfg.Interface)},
		names: resolv.New(h.cfg.resolver(h.cfg.Interface, h.index))}
	return nil
}

// takeLock says that this instance lives, and returns the turn to change the host.
// Where no state can be kept (a read-only container) the marks on routes and rules
// have to do.
func (h *Host) takeLock() (turn *lock, err error) {
	if err = os.MkdirAll(h.cfg.StateDir, 0o755); err == nil {
		turn, err = lockTurn(h.cfg.StateDir)
	}
	if err == nil {
		h.lock, err = lockInstance(h.cfg.StateDir, h.cfg.Interface)
	}
	switch {
	case err == nil:
		return turn, nil
	case errors.Is(err, errHeld):
		err = fmt.Errorf("another instance uses this interface (%s is locked)", lockPath(h.cfg.StateDir, h.cfg.Interface))
	case errors.Is(err, unix.EROFS) || errors.Is(err, fs.ErrPermission):
		h.cfg.Log.Warn("no journal: after a crash some settings may stay", "cause", err)
		err = nil
	}
	turn.release()
	return nil, err
}

func (h *Host) free() {
	h.lock.remove()
	if h.nl != nil {
		h.nl.Close()
	}
}

func (h *Host) look() (view, error) {
	return look(h.nl, h.cfg.Interface, siblings(h.cfg.StateDir, h.cfg.Interface))
}

// siblings returns the TAPs of other instances that live. It is called in turn, as
// all that tries locks: one who starts just then would find its own lock held.
func siblings(dir, own string) []string {
	taps, _ := journals(dir)
	return slices.DeleteFunc(taps, func(tap string) bool {
		if tap == own {
			return true
		}
		l, err := lockInstance(dir, tap)
		if err == nil {
			l.remove()
		}
		return !errors.Is(err, errHeld)
	})
}

// Apply puts a configuration on the host in place of the one before, if need be,
// and announces its address; the zero Config takes all of it back but the way to
// the server. On an error the host is as it was before.
func (h *Host) Apply(ctx context.Context, cfg netcfg.Config) error {
	if err := h.change(ctx, func(w *wish) { w.Config = cfg }); err != nil {
		return err
	}
	if cfg.IsZero() {
		return nil
	}
	if err := announce(h.index, h.mac, cfg.Address.Addr()); err != nil {
		h.cfg.Log.Debug("address not announced", "cause", err)
	}
	return nil
}

// Protect keeps the way to the server's addresses outside the tunnel, those of
// both families, in place of the ones named before. It is called before the first
// connection, and again when the server's name has other addresses.
func (h *Host) Protect(ctx context.Context, servers []netip.Addr) error {
	plain := make([]netip.Addr, 0, len(servers))
	for _, s := range servers {
		if s = s.Unmap().WithZone(""); s.IsValid() && !s.IsLoopback() && !scoped(s) {
			plain = append(plain, s)
		}
	}
	return h.change(ctx, func(w *wish) { w.Servers = plain })
}

// Close takes everything back. A second call does nothing.
func (h *Host) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil
	}
	h.closed = true
	h.wish.Closed = true
	err := h.reconcile(context.Background())
	if err == nil && h.lock != nil {
		os.Remove(journalPath(h.cfg.StateDir, h.cfg.Interface))
	}
	h.free()
	if err != nil {
		return fmt.Errorf("host: %s: %w", h.cfg.Interface, err)
	}
	return nil
}

// change makes a new wish true, or keeps to the old one.
func (h *Host) change(ctx context.Context, edit func(*wish)) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return fmt.Errorf("host: %s: %w", h.cfg.Interface, os.ErrClosed)
	}
	old := h.wish
	edit(&h.wish)
	if err := h.reconcile(ctx); err != nil {
		h.wish = old
		return fmt.Errorf("host: %s: %w", h.cfg.Interface, err)
	}
	return nil
}

// passes bounds how often the host is looked at again. A second pass repairs what
// the kernel changed by itself in the first; a third finds nothing.
const passes = 4

// reconcile makes the wish true. Whoever calls it holds mu.
func (h *Host) reconcile(ctx context.Context) error {
	defer h.turn().release()
	var done []step
	for range passes {
		steps, err := h.plan()
		if err == nil && len(steps) == 0 {
			return h.write(nil)
		}
		if err == nil {
			err = h.write(steps)
		}
		if err == nil {
			done, err = h.take(ctx, steps, done)
		}
		if err != nil {
			return errors.Join(err, h.undo(context.WithoutCancel(ctx), done))
		}
	}
	steps, err := h.plan()
	if len(steps) > 0 {
		h.cfg.Log.Warn("the host does not stay as configured", "next", steps[0].String(), "steps", len(steps))
	}
	return errors.Join(err, h.write(nil))
}

// turn waits for our turn. Without a state directory there are no turns; one that
// someone removed is made anew.
func (h *Host) turn() *lock {
	if h.lock == nil {
		return nil
	}
	err := os.MkdirAll(h.cfg.StateDir, 0o755)
	if err == nil {
		var turn *lock
		if turn, err = lockTurn(h.cfg.StateDir); err == nil {
			return turn
		}
	}
	h.cfg.Log.Warn("other instances are not waited for", "cause", err)
	return nil
}

// plan looks at the host and says what is to be done.
func (h *Host) plan() ([]step, error) {
	v, err := h.look()
	if err != nil {
		return nil, err
	}
	gone := v.TAP.Index != h.index
	if gone && !h.wish.Closed && !h.wish.Config.IsZero() {
		return nil, fmt.Errorf("the interface is gone")
	}
	have := h.have(&v)
	h.wish.Set = h.held.settings
	h.chooseMarks(v)
	w := h.wish
	w.Closed = w.Closed || gone // without the interface nothing of ours has a use
	wanted, err := want(v, w)
	if err != nil {
		return nil, err
	}
	return plan(h.haveNames(have, wanted), wanted), nil
}

// chooseMarks takes marks that are free at the moment they are needed: all instances
// choose in turn. They stay the same as long as they are in use.
func (h *Host) chooseMarks(v view) {
	if h.held.marks != (marks{}) {
		return
	}
	h.wish.TunnelMark, h.wish.KeepMark = 0, 0
	if h.noNFT == nil {
		h.wish.TunnelMark, h.wish.KeepMark = v.freeMarks()
	}
}

// take takes steps and returns all that are done. When all is taken back, a step
// that fails does not keep the others.
func (h *Host) take(ctx context.Context, steps, done []step) ([]step, error) {
	var errs []error
	for _, s := range steps {
		if err := ctx.Err(); err != nil {
			return done, err
		}
		err := h.act.take(ctx, s)
		switch {
		case err == nil:
			h.cfg.Log.Debug("host", "step", s.String())
			h.held.note(s)
			done = append(done, s)
		case h.wish.Closed:
			errs = append(errs, err)
			h.held.note(s)
		default:
			return done, err
		}
	}
	return done, errors.Join(errs...)
}

// undo takes steps back, the last first.
func (h *Host) undo(ctx context.Context, done []step) error {
	if h.wish.Closed {
		return nil
	}
	var errs []error
	for _, s := range slices.Backward(done) {
		back := s.inverse()
		if err := h.act.take(ctx, back); err != nil {
			errs = append(errs, fmt.Errorf("undo: %w", err))
			continue
		}
		h.held.note(back)
	}
	return errors.Join(append(errs, h.write(nil))...)
}

var _ interface { // what pkg/client asks for
	Apply(context.Context, netcfg.Config) error
} = (*Host)(nil)

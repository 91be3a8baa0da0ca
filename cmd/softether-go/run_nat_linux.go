package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"softether-go/pkg/addresses"
	"softether-go/pkg/config"
	"softether-go/pkg/frame"
	"softether-go/pkg/nat"
	"softether-go/pkg/privnet"
	"softether-go/pkg/share"
	"softether-go/pkg/stats"
	"softether-go/pkg/vpn"
)

// stations are those of a shared session that the hub knows of, by their addresses. It does
// not forget one that has ended for a while, so the next gets its address.
type stations struct {
	mu      sync.Mutex // guards all below
	limit   int        // by the policy; 0 means none
	item    string     // of the policy
	macs    map[string]bool
	spare   []net.HardwareAddr // of those, without a command
	asked   bool               // the policy is known
	known   chan struct{}      // closed then
	members [253]bool          // of the network behind NAT, by number
}

// learn learns how many may share the session. It reports how many too many there are.
func (s *stations) learn(limit int, item string) (beyond int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit, s.item = limit, item
	if !s.asked {
		s.asked = true
		close(s.known)
	}
	if limit > 0 {
		return max(0, len(s.macs)-limit)
	}
	return 0
}

// address returns one for a new command: that of one that has ended, if there is any.
func (s *stations) address(a config.Addressing) net.HardwareAddr {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.spare); a.MAC == nil && n > 0 {
		mac := s.spare[n-1]
		s.spare = s.spare[:n-1]
		return mac
	}
	return ownMAC(a)
}

// enter reports whether a command with this address may be a station of the hub's. The
// last place is for all that may not.
func (s *stations) enter(mac net.HardwareAddr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.limit > 0 && !s.macs[mac.String()] && len(s.macs) >= s.limit-1 {
		return false
	}
	s.macs[mac.String()] = true
	return true
}

// leave gives back what address gave.
func (s *stations) leave(mac net.HardwareAddr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.macs[mac.String()] {
		s.spare = append(s.spare, mac)
	}
}

// policy returns how many may share the session, and what says so.
func (s *stations) policy() (limit int, item string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.limit, s.item
}

// number returns one for a command behind NAT.
func (s *stations) number() (n int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n, used := range s.members {
		if !used {
			s.members[n] = true
			return n, true
		}
	}
	return 0, false
}

func (s *stations) giveNumber(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.members[n] = false
}

// A lanBehind is the network of the commands that share one address by NAT.
type lanBehind struct {
	router *nat.Router
	sw     *share.Switch
}

// behind makes the network behind NAT, the first time, which then is there as long as the
// session.
func (v *sharedVPN) behind() (*lanBehind, error) {
	v.nat.Do(func() {
		l := &lanBehind{router: nat.New(nat.Config{Outside: vpn.RandomMAC(), Inside: vpn.RandomMAC(), Log: v.log})}
		if l.sw, v.lanErr = share.New(v.log); v.lanErr != nil {
			return
		}
		v.lan.Store(l)
		v.running.Go(func() { _ = l.sw.Run(v.ctx) })                                     // it ends with ctx
		v.running.Go(func() { _ = frame.Join(v.ctx, l.sw.Uplink(), l.router.Inside()) }) // so does it
		v.running.Go(func() {
			defer l.sw.Close()
			err := v.sw.Serve(v.ctx, share.Member{Endpoint: l.router.Outside(), Configurer: l.router,
				Config: addressing(v.cfg.Address).Plan(l.router.MAC(), v.log)})
			if v.ctx.Err() == nil {
				v.log.Error("the address that commands share by NAT is lost", "cause", err)
			}
		})
	})
	return v.lan.Load(), v.lanErr
}

// serveBehind carries the frames of a command that shares an address.
func (v *sharedVPN) serveBehind(ctx context.Context, control *privnet.Socket, link *privnet.Link, c config.Addressing) error {
	limit, item := v.stations.policy()
	if c.NoDHCP || c.Address6.IsValid() || c.MAC != nil || v.cfg.Address.NoDHCP {
		return fmt.Errorf("run: the hub's policy (%s) lets a session have %d stations, and as many share it, so that "+
			"this command cannot have an address that you choose: drop -address and -mac, or give it a session of its own, without -attach and -share", item, limit)
	}
	n, ok := v.stations.number()
	if !ok {
		return errors.New("run: as many commands share the session's last address as can: give this one a session of its own")
	}
	defer v.stations.giveNumber(n)
	lan, err := v.behind()
	if err != nil {
		return err
	}
	_ = control.Send(vpnReply{Note: fmt.Sprintf("the hub's policy (%s) lets a session have %d stations, so this command shares one address "+
		"with others by NAT: it reaches everything by IPv4, but nobody in the VPN reaches servers in it", item, limit)})
	plan := addressing(c).Plan(nil, v.log)
	for {
		config, changed := lan.router.Station(n)
		err := error(nil)
		if config.Address.IsValid() {
			err = serveUntil(ctx, changed, func(ctx context.Context) error {
				return lan.sw.Serve(ctx, share.Member{Endpoint: link, Configurer: link, Config: addresses.Config{Static: plan.Adjust(config)},
					Ready: readies(ctx, link)})
			})
		} else {
			select {
			case <-ctx.Done():
			case <-changed:
			}
		}
		if ctx.Err() != nil || err != nil {
			return err
		}
	}
}

// serveUntil serves until that fails, ctx ends or, which is no error, changed is closed.
func serveUntil(ctx context.Context, changed <-chan struct{}, serve func(context.Context) error) error {
	inner, cancel := context.WithCancel(ctx)
	var waiting sync.WaitGroup
	defer waiting.Wait()
	defer cancel()
	waiting.Go(func() {
		select {
		case <-changed:
		case <-inner.Done():
		}
		cancel()
	})
	err := serve(inner)
	if inner.Err() != nil {
		return ctx.Err()
	}
	return err
}

// counters are those of the session, and of NAT if there is any.
func (v *sharedVPN) counters() []stats.Section {
	all := []stats.Section{{Name: "session", Counts: v.client.Stats()}, {Name: "health", Counts: v.health.Stats()}}
	if l := v.lan.Load(); l != nil {
		all = append(all, stats.Section{Name: "nat", Counts: l.router.Stats()})
	}
	return all
}

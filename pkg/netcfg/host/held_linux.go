package host

import (
	"net/netip"
	"os"
	"slices"
)

// held is what we put on the host and cannot tell from others' by looking.
type held struct {
	addresses []netip.Prefix
	rules     []rule // of the policy table: another instance may have been given the same
	settings  map[string]setting
	marks     marks
	names     names
}

// have lists what of ours is there. A TAP that is gone has taken its own along.
func (h *Host) have(v *view) []item {
	items := slices.DeleteFunc(v.mine(h.index, h.cfg.PolicyTable), h.held.not)
	if v.TAP.Index == h.index {
		items = append(items, link{Up: v.TAP.Up, MTU: v.TAP.MTU})
		for _, a := range v.Addresses {
			if a.Dev == h.index && slices.Contains(h.held.addresses, a.Prefix) {
				items = append(items, address{a.Prefix})
			}
		}
	} else {
		items = append(items, h.wish.LinkWas)
	}
	for _, s := range h.held.settings {
		items = append(items, s)
	}
	if h.held.marks != (marks{}) {
		items = append(items, h.held.marks)
	}
	return items
}

// haveNames adds the name servers, unless someone else's are in force. Those are
// replaced as long as ours are wanted; later, what we kept of the ones before goes.
func (h *Host) haveNames(have, wanted []item) []item {
	n := h.held.names
	isNames := func(i item) bool { return i.key() == n.key() }
	if n != (names{}) && (h.act.names.Held() || !slices.ContainsFunc(wanted, isNames)) {
		have = append(have, n)
	}
	return have
}

// not reports whether an item is a rule of another instance with our policy table.
func (h *held) not(i item) bool {
	r, ok := i.(rule)
	return ok && !isKeep(r.Table) && !slices.Contains(h.rules, r)
}

// note keeps what a step changed.
func (h *held) note(s step) {
	if s.Old != nil {
		switch i := s.Old.(type) {
		case address:
			h.addresses = slices.DeleteFunc(h.addresses, func(p netip.Prefix) bool { return p == i.Prefix })
		case rule:
			h.rules = slices.DeleteFunc(h.rules, func(r rule) bool { return r == i })
		case setting:
			delete(h.settings, i.Path)
		case marks:
			h.marks = marks{}
		case names:
			h.names = names{}
		}
	}
	switch i := s.New.(type) {
	case address:
		h.addresses = append(h.addresses, i.Prefix)
	case rule:
		h.rules = append(h.rules, i)
	case setting:
		h.settings[i.Path] = i
	case marks:
		h.marks = i
	case names:
		h.names = i
	}
}

// write keeps the journal: what is held, and what steps will add to it.
func (h *Host) write(steps []step) error {
	if h.lock == nil || h.wish.Closed {
		return nil // what there is to take back is in the journal already
	}
	will := held{addresses: slices.Clone(h.held.addresses), settings: map[string]setting{}, names: h.held.names}
	for path, s := range h.held.settings {
		will.settings[path] = s
	}
	for _, s := range steps {
		if s.New != nil {
			will.note(step{New: s.New})
		}
	}
	j := journal{Version: journalVersion, Interface: h.cfg.Interface, Index: h.index, PID: os.Getpid(),
		Boot: bootID(), PolicyTable: h.cfg.PolicyTable, Link: h.wish.LinkWas,
		Addresses: will.addresses, Names: will.names != names{}}
	for _, s := range will.settings {
		j.Settings = append(j.Settings, s)
	}
	return j.write(h.cfg.StateDir)
}

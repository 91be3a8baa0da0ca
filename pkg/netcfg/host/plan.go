package host

import (
	"cmp"
	"fmt"
	"slices"
)

// A verb is what a step does.
type verb uint8

const (
	add verb = iota
	replace
	remove
)

// A step changes one item. Old is set exactly if there is one before, New if there
// is one after.
type step struct {
	Do       verb
	Old, New item
}

// inverse undoes s.
func (s step) inverse() step {
	switch s.Do {
	case add:
		return step{Do: remove, Old: s.New}
	case remove:
		return step{Do: add, New: s.Old}
	default:
		return step{Do: replace, Old: s.New, New: s.Old}
	}
}

func (s step) String() string {
	switch s.Do {
	case add:
		return "add " + s.New.String()
	case remove:
		return "remove " + s.Old.String()
	default:
		return fmt.Sprintf("replace %s by %s", s.Old, s.New)
	}
}

// plan returns the steps from have to want: what is new or changed in the order of
// ranks, then what goes in the reverse order, so that there is no gap between.
func plan(have, want []item) []step {
	present := make(map[any]item, len(have))
	for _, i := range have {
		present[i.key()] = i
	}
	var steps []step
	wanted := make(map[any]bool, len(want))
	for _, i := range byRank(want) {
		if wanted[i.key()] {
			continue
		}
		wanted[i.key()] = true
		switch old, ok := present[i.key()]; {
		case !ok:
			steps = append(steps, step{Do: add, New: i})
		case old != i && !lowers(old, i):
			steps = append(steps, step{Do: replace, Old: old, New: i})
		}
	}
	gone := byRank(have)
	slices.Reverse(gone)
	for _, old := range gone {
		if !wanted[old.key()] {
			steps = append(steps, step{Do: remove, Old: old})
		} else if l := slices.IndexFunc(want, func(i item) bool { return lowers(old, i) }); l >= 0 {
			steps = append(steps, step{Do: replace, Old: old, New: want[l]})
		}
	}
	return steps
}

// lowers reports whether a step takes the link down, which takes its routes along:
// that comes after they have been removed.
func lowers(old, fresh item) bool {
	before, ok := old.(link)
	after, ok2 := fresh.(link)
	return ok && ok2 && before.Up && !after.Up
}

func byRank(items []item) []item {
	return slices.SortedStableFunc(slices.Values(items), func(a, b item) int { return cmp.Compare(a.rank(), b.rank()) })
}

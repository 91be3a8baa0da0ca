//go:build !linux

package underlay

import (
	"errors"
	"fmt"
)

// apply finds nothing to do: check has refused what is not there.
func (b Bind) apply(int) error { return nil }

func (b Bind) check() error {
	if b.Interface != "" || b.Mark != 0 {
		return fmt.Errorf("choosing the interface of connections, or marking them, is for Linux alone: bind to an address (%w)", errors.ErrUnsupported)
	}
	return nil
}

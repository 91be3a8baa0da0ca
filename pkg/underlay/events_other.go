//go:build !linux

package underlay

import (
	"errors"
	"time"
)

// listen is for Linux; elsewhere Watch looks from time to time.
func listen() (<-chan struct{}, func(), error) { return nil, nil, errors.ErrUnsupported }

// sleepClock compares Go's two clocks: the monotonic one stands still while most
// systems sleep. Setting the other clock forward counts as sleep too, which costs no
// more than a new connection.
func sleepClock() func() time.Duration {
	begun := time.Now()
	wall := begun.Round(0)
	return func() time.Duration {
		now := time.Now()
		return now.Round(0).Sub(wall) - now.Sub(begun)
	}
}

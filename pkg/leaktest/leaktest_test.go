package leaktest

import (
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

func TestSettlesWaitsForTheLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := runtime.NumGoroutine()
		go time.Sleep(9 * time.Second)
		if !Settles(before) {
			t.Error("a goroutine that ended in time counted as left")
		}
		stay := make(chan struct{})
		go func() { <-stay }()
		if Settles(before) {
			t.Error("a goroutine that stays was not seen")
		}
		close(stay)
	})
}

package seldom

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestALineComesAgainAfterAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l Line
		var got []uint64
		for range 130 { // one each second
			if n, now := l.Again(); now {
				got = append(got, n)
			}
			time.Sleep(time.Second)
		}
		if want := []uint64{1, 60, 60}; !slices.Equal(got, want) {
			t.Errorf("logged with counts %v, want %v", got, want)
		}
	})
}

package pace

import (
	"testing"
	"time"
)

// A signal of the runtime's ends a rest early, and a busy machine ends it late; so that
// it is right once is what counts.
func TestARestIsShort(t *testing.T) {
	for range 50 {
		begun := time.Now()
		Rest()
		if d := time.Since(begun); d >= RestFor && d <= 10*RestFor {
			return
		}
	}
	t.Errorf("not one of 50 rests lasts for about %v", RestFor)
}

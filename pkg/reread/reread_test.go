package reread

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

func TestEachChangeIsReadOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		one, two := filepath.Join(dir, "one"), filepath.Join(dir, "two")
		write := func(path, text string) {
			t.Helper()
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		reads, failure := 0, error(nil)
		f := New(func() error { reads++; return failure }, one, two)
		// refreshes checks how many of three looks read the files.
		refreshes := func(what string, want int) {
			t.Helper()
			before := reads
			for range 3 {
				time.Sleep(Every)
				again, err := f.Refresh()
				if again && !errors.Is(err, failure) || !again && err != nil {
					t.Errorf("%s: read is %v, error is %v", what, again, err)
				}
			}
			if reads-before != want {
				t.Errorf("%s: read %d times, want %d", what, reads-before, want)
			}
		}
		write(one, "1")
		if err := f.Read(); err != nil || reads != 1 {
			t.Fatalf("read %d times: %v", reads, err)
		}
		refreshes("nothing has changed", 0)
		write(one, "another size")
		refreshes("a change", 1)
		failure = errors.New("broken")
		write(two, "2")
		refreshes("one more file, and it is broken", 1)
		if err := os.Remove(one); err != nil {
			t.Fatal(err)
		}
		refreshes("one is gone", 1)
		failure = nil
		write(one, "1")
		refreshes("it is back", 1)

		write(one, "too soon")
		if again, _ := f.Refresh(); again {
			t.Error("looked at again within a second")
		}
		if err := os.Chtimes(one, time.Time{}, time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
		refreshes("another time", 1)
		if err := f.Read(); err != nil || reads == 0 {
			t.Error(err)
		}
		refreshes("read as it is", 0)
	})
}

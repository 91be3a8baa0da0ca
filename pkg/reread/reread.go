// Package reread reads files again when they have changed, as those who renew a
// certificate or add a user expect, without a signal.
//
// Theory of operation: nothing watches. Who needs what the files say asks at that moment
// (Refresh), and at most once a second the files are looked at; if one is another than the
// one that was read last (another inode, time or size, or it is gone) they are read. Each
// state is read once, so a broken file is complained of once. What is kept on an error is
// the reader's affair, and so is the complaint.
package reread

import (
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Every is how often the files are looked at, at most.
const Every = time.Second

// Files are read together. All methods may be called at any time, by any goroutine.
type Files struct {
	read   func() error
	paths  []string
	looked atomic.Int64 // Unix nanoseconds

	mu   sync.Mutex    // guards seen, and that one reads at a time
	seen []os.FileInfo // before they were read last; nil for one that was not there
}

// New is for files that read knows how to read. It reads nothing yet.
func New(read func() error, paths ...string) *Files { return &Files{read: read, paths: paths} }

// Read reads the files, whether or not they have changed.
func (f *Files) Read() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looked.Store(time.Now().UnixNano())
	f.seen = f.look()
	return f.read()
}

// Refresh reads the files if they have changed, and reports whether it did. The error is
// that of reading.
func (f *Files) Refresh() (again bool, err error) {
	now, last := time.Now().UnixNano(), f.looked.Load()
	if now-last < int64(Every) || !f.looked.CompareAndSwap(last, now) {
		return false, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	info := f.look()
	if slices.EqualFunc(info, f.seen, same) {
		return false, nil
	}
	f.seen = info
	return true, f.read()
}

// look comes before reading: what changes in between is then noticed the next time.
func (f *Files) look() []os.FileInfo {
	info := make([]os.FileInfo, len(f.paths))
	for i, path := range f.paths {
		info[i], _ = os.Stat(path) // reading says what is wrong
	}
	return info
}

// same reports whether two looks at a file saw the same contents.
func same(a, b os.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}

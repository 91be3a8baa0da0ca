//go:build !unix

package proxy

// openFiles has no limit to report.
func openFiles() (limit uint64, ok bool) { return 0, false }

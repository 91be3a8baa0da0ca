//go:build race

package session

// raceEnabled: with the race detector a sync.Pool forgets some of what it is given.
const raceEnabled = true

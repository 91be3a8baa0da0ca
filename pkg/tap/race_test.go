//go:build race

package tap

// raceEnabled: the race detector allocates on its own.
const raceEnabled = true

//go:build !race

package forward

// raceEnabled says that the race detector is on.
const raceEnabled = false

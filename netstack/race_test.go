//go:build race

package netstack

// bulk is how much a bulk transfer moves: the race detector makes it 20 times slower.
const bulk = 12 << 20

const raceEnabled = true

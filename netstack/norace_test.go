//go:build !race

package netstack

// bulk is how much a bulk transfer moves.
const bulk = 128 << 20

const raceEnabled = false

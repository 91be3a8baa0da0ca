//go:build race

package udpaccel

const raceEnabled = true

//go:build race

package sbx_test

// raceEnabled says that the race detector prints its findings between the lines of a crash.
const raceEnabled = true

//go:build !race

package sbx_test

const raceEnabled = false

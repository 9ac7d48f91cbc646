// Package other has a variable that a function of another package reads through a call. // want package:"summary of example.com/m/other"
package other

var level int

// SetLevel is called by main.
func SetLevel(n int) { level = n }

// Level is called by a wrapped function.
func Level() int { return level }

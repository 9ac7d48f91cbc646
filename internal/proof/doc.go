// Package proof holds the proof of what the library says about delivery: many trials of functions that leave a mark outside as
// their first statement and then end their process in some way, among calls that do no harm. It has tests only, and generated
// code, since its test binary is its own worker. `make prove` runs it with 10,000 trials for each way and driver.
package proof

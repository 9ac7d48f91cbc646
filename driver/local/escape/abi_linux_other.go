//go:build linux && !amd64

package escape

// abi is empty where there is no other way into the kernel that a test could take.
var abi []Attempt

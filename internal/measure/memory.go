package measure

import "runtime"

// InUse returns the bytes of this program's heap that are in use, and of stacks.
func InUse() (heap, stacks float64) {
	for range 3 { // what finalizers keep takes more than one
		runtime.GC()
	}
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return float64(stats.HeapAlloc), float64(stats.StackInuse)
}

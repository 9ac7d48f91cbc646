// Package oom tells whether the kernel has killed a process because memory ran out. Its audience is drivers that run
// sandboxes on this machine.
//
// A parent learns that its child was killed, not by whom. What the kernel says is how many processes it has killed, of a
// memory cgroup or of the whole machine. So a [Mark] is an informed guess: it takes a kill in the group of this
// process, while its child lived, for the kill of the child. A child that has left the group is not seen. Where
// the group's counter can't be read, the machine's is used, and any kill on it counts.
package oom

import "sync"

// A Mark is a moment.
type Mark struct{ count uint64 }

var (
	mu sync.Mutex
	// explained is the counter's value up to which kills have been found out, so that one kill explains one death.
	explained uint64
)

// Now marks the moment before a child of this process is started.
func Now() Mark { return Mark{kills()} }

// Killed reports whether the kernel has killed for lack of memory since m, and no earlier call has reported that kill. Ask only
// about a child that SIGKILL ended, and that nobody is known to have sent one.
func (m Mark) Killed() bool { return m.explainedBy(kills()) }

func (m Mark) explainedBy(count uint64) bool {
	mu.Lock()
	defer mu.Unlock()
	from := max(m.count, explained)
	if count <= from {
		return false
	}
	explained = from + 1
	return true
}

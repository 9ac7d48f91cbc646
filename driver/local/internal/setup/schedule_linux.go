package setup

import "golang.org/x/sys/unix"

// WorkInBulk has the kernel take what this thread does, and what it starts, for work in bulk (SCHED_BATCH), and reports whether that is new. Such a thread interrupts
// nothing when something wakes it. Where many sandboxes start at the same time, each interruption costs more than a short wait. What somebody has
// chosen for the program stays.
func WorkInBulk() bool { return schedule(unix.SCHED_NORMAL, unix.SCHED_BATCH) == nil }

// workAsUsual ends that.
func workAsUsual() error { return schedule(unix.SCHED_BATCH, unix.SCHED_NORMAL) }

func schedule(from, to uint32) error {
	attributes, err := unix.SchedGetAttr(0, 0)
	switch {
	case err != nil:
		return err
	case attributes.Policy != from:
		return unix.EINVAL
	}
	attributes.Policy = to
	return unix.SchedSetAttr(0, attributes, 0)
}

package escape

import (
	"golang.org/x/sys/unix"
)

// neighbours are attempts at another sandbox of the same session.
var neighbours = []Attempt{
	{"read a neighbour's file", func(t Targets) error { return contains(t.NeighbourFile, t.Secret) }},
	{"see a neighbour's process", func(t Targets) error { return anyProcess("environ", t.NeighbourMarker+"\x00") }},
	{"connect to a neighbour", func(t Targets) error { return dial("unix", t.NeighbourAbstract) }},
	{"signal a neighbour", func(t Targets) error { return unix.Kill(t.NeighbourPID, 0) }},
	{"connect to a neighbour's loopback", func(t Targets) error { return dial("tcp", t.NeighbourTCP) }},
	{"open a neighbour's shared memory", func(t Targets) error { return contains(t.NeighbourShared, t.Secret) }},
	{"open a neighbour's System V shared memory", func(t Targets) error { return errnoOf(unix.SYS_SHMGET, uintptr(t.NeighbourKey), 0, 0) }},
	{"open a neighbour's System V message queue", func(t Targets) error { return errnoOf(unix.SYS_MSGGET, uintptr(t.NeighbourKey), 0) }},
	{"open a neighbour's System V semaphores", func(t Targets) error { return errnoOf(unix.SYS_SEMGET, uintptr(t.NeighbourKey), 0, 0) }},
	{"open a neighbour's POSIX message queue", func(t Targets) error {
		name := t.NeighbourQueue + "\x00"
		return errnoOf(unix.SYS_MQ_OPEN, bytesOf(name), unix.O_RDONLY, 0, 0)
	}},
	{"ptrace a neighbour", func(t Targets) error {
		return errnoOf(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(t.NeighbourPID), 0, 0)
	}},
}

// Package escape tries to get out of a sandbox: a list of attempts, each of which says what it achieved.
//
// Its audience is the tests of drivers that claim isolation. They run every attempt twice: inside a sandbox, where it
// must be held, and outside, as root and on targets prepared for it, where it must succeed, for an attempt that can't
// succeed anywhere shows nothing.
package escape

// Targets are what the attempts are aimed at. Inside and outside get the same, but for the fields that say otherwise.
type Targets struct {
	// Secret is in HostFile, in the environment of the process HostPID, and in that of the session's program.
	Secret string
	// HostFile is a file of the host, which the session's program holds open without close-on-exec.
	HostFile string
	// HostFolder is a writable folder of the host.
	HostFolder string
	// HostPID is a process of the host, as the host numbers it, with HostMarker among its arguments.
	HostPID    int
	HostMarker string
	// HostAddress is an address in HostPID's memory with one readable byte.
	HostAddress uintptr
	// ConnFD is, inside, the connection to the session's program.
	ConnFD int
	// Namespaces are the host's, as links in /proc name them.
	Namespaces map[string]string
	// Program is a program that isn't the attempt's: inside, process 1's; outside, HostFile.
	Program string
	// ScratchMiB is the size of each writable folder inside.
	ScratchMiB int
	// Engine and AbstractEngine are listeners on the host at addresses as container engines have them.
	Engine, AbstractEngine string
	// TCP, Abstract and Socket are the addresses of listeners on the host.
	TCP, Abstract, Socket string
	// HostPath is a path that mountinfo outside shows.
	HostPath string
	// Init is, inside, 1; outside, HostPID.
	Init int
	// Mount is a read-only mount: inside, /usr; outside, one that was made for this.
	Mount string
	// NeighbourFile holds the secret in another sandbox: inside, its path there; outside, its path through /proc.
	NeighbourFile string
	// NeighbourMarker is an entry in the environment of another sandbox's process.
	NeighbourMarker string
	// NeighbourAbstract is the abstract socket on which another sandbox listens: outside, one that the host listens on.
	NeighbourAbstract string
	// NeighbourPID is another sandbox's process, as the host numbers it; outside, HostPID.
	NeighbourPID int
	// These are what another sandbox has made: a port of its loopback, a file in /dev/shm with the secret, System V shared
	// memory, a message queue and semaphores with that key, and a POSIX message queue; outside, the host's.
	NeighbourTCP, NeighbourShared, NeighbourQueue string
	NeighbourKey                                  int
}

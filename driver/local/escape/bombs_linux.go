package escape

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// bombs are attempts at taking more of something than a sandbox may have, by a little, so that the machine survives
// their success outside.
var bombs = []Attempt{
	{"process bomb", func(Targets) error { return forkMany(5000) }},
	{"thread bomb", func(Targets) error {
		debug.SetMaxThreads(10_000)
		debug.SetTraceback("none") // the runtime ends the process where the kernel gives no thread
		var running sync.WaitGroup
		for range 5000 {
			running.Add(1)
			go func() {
				runtime.LockOSThread()
				running.Done()
				select {}
			}()
		}
		running.Wait()
		return nil
	}},
	{"descriptor bomb", func(Targets) error {
		return repeat(16<<10+100, func(int) error {
			_, err := unix.Dup(0)
			return err
		})
	}},
	{"descriptors in flight", func(Targets) error {
		return repeat(100, func(int) error { // of 250 each
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
			if err != nil {
				return err
			}
			return unix.Sendmsg(pair[0], []byte{0}, unix.UnixRights(make([]int, 250)...), nil, unix.MSG_DONTWAIT)
		})
	}},
	{"disk bomb in /tmp", func(t Targets) error { return fill(os.TempDir(), t.ScratchMiB+1) }},
	{"disk bomb in the working folder", func(t Targets) error { return fill(".", t.ScratchMiB+1) }},
	{"shared memory bomb", func(Targets) error { return fill("/dev/shm", 65) }},
	{"inode bomb", func(Targets) error {
		folder, err := os.MkdirTemp("", "inodes")
		if err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(folder) }()
		return repeat(16<<10+1, func(i int) error {
			fd, err := unix.Open(filepath.Join(folder, strconv.Itoa(i)), unix.O_CREAT|unix.O_WRONLY, 0o600)
			if err != nil {
				return err
			}
			return unix.Close(fd)
		})
	}},
	{"locked memory bomb", func(Targets) error {
		memory, err := unix.Mmap(-1, 0, 16<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			return err
		}
		return unix.Mlock(memory)
	}},
	{"lock all memory", func(Targets) error { return unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE) }},
	{"signal bomb", func(Targets) error {
		runtime.LockOSThread()
		const number = 50 // a realtime signal: they queue
		var set unix.Sigset_t
		set.Val[0] = 1 << (number - 1)
		if err := unix.PthreadSigmask(unix.SIG_BLOCK, &set, nil); err != nil {
			return err
		}
		info := [32]int32{number, 0, -1} // si_code SI_QUEUE
		return repeat(5000, func(int) error {
			return errnoOf(unix.SYS_RT_TGSIGQUEUEINFO, uintptr(os.Getpid()), uintptr(unix.Gettid()), number, uintptr(unsafe.Pointer(&info)))
		})
	}},
	{"pipe bomb", func(Targets) error {
		return repeat(80, func(int) error { // of 1 MiB each
			var pipe [2]int
			if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
				return err
			}
			_, err := unix.FcntlInt(uintptr(pipe[0]), unix.F_SETPIPE_SZ, 1<<20)
			return err
		})
	}},
	{"pipe of unusual size", func(Targets) error {
		var pipe [2]int
		if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
			return err
		}
		_, err := unix.FcntlInt(uintptr(pipe[0]), unix.F_SETPIPE_SZ, 16<<20)
		return err
	}},
	{"message queue bomb", func(Targets) error {
		attr := [8]int64{0, 10, 8192} // messages, and bytes of each
		return repeat(20, func(i int) error {
			name := fmt.Sprintf("bomb%d-%d\x00", os.Getpid(), i)
			defer func() { _ = errnoOf(unix.SYS_MQ_UNLINK, bytesOf(name)) }() // it lives on in the descriptor
			return errnoOf(unix.SYS_MQ_OPEN, bytesOf(name), unix.O_CREAT|unix.O_RDWR, 0o600, uintptr(unsafe.Pointer(&attr)))
		})
	}},
	// Where none are set aside, the kernel has no memory for it.
	{"huge pages", func(Targets) error {
		_, err := unix.Mmap(-1, 0, 2<<20, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_HUGETLB)
		return reachable(err, unix.ENOMEM)
	}},
	{"memory bomb", func(Targets) error {
		memory, err := unix.Mmap(-1, 0, 256<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			return err
		}
		for i := 0; i < len(memory); i += 4096 {
			memory[i] = 1
		}
		return nil
	}},
}

// repeat takes one more until it has as many as most, and says how many there were before one was refused.
func repeat(most int, one func(i int) error) error {
	for i := range most {
		if err := one(i); err != nil {
			return fmt.Errorf("after %d: %w", i, err)
		}
	}
	return nil
}

// fill makes a file of that size.
func fill(folder string, sizeMiB int) error {
	file, err := os.CreateTemp(folder, "bomb")
	if err != nil {
		return err
	}
	defer func() { _, _ = file.Close(), os.Remove(file.Name()) }()
	block := make([]byte, 1<<20)
	return repeat(sizeMiB, func(int) error {
		_, err := file.Write(block)
		return err
	})
}

// forkMany has as many children at the same time.
func forkMany(most int) error {
	var children []int
	err := repeat(most, func(int) error {
		pid, errno := fork(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, true)
		if errno != 0 {
			return errno
		}
		children = append(children, pid)
		return nil
	})
	for _, pid := range children {
		err = errors.Join(err, unix.Kill(pid, unix.SIGKILL))
	}
	for _, pid := range children {
		_, waitErr := unix.Wait4(pid, nil, 0, nil)
		err = errors.Join(err, waitErr)
	}
	return err
}

// fork makes a process by clone or clone3, which ends at once, or, if waits is true, when it is killed. The child has one thread
// and no runtime: it makes nothing but raw system calls.
func fork(number, first, second uintptr, waits bool) (pid int, errno unix.Errno) {
	child, _, errno := unix.RawSyscall6(number, first, second, 0, 0, 0, 0)
	if errno != 0 || child != 0 {
		return int(child), errno
	}
	for waits {
		_, _, _ = unix.RawSyscall6(unix.SYS_PPOLL, 0, 0, 0, 0, 0, 0)
	}
	for {
		_, _, _ = unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
}

func clone(flags uintptr) error {
	return forked(fork(unix.SYS_CLONE, flags|uintptr(unix.SIGCHLD), 0, false))
}

func clone3(flags uint64) error {
	arguments := [11]uint64{0: flags, 4: uint64(unix.SIGCHLD)} // struct clone_args
	return forked(fork(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&arguments)), unsafe.Sizeof(arguments), false))
}

func forked(pid int, errno unix.Errno) error {
	if errno != 0 {
		return errno
	}
	_, err := unix.Wait4(pid, nil, 0, nil)
	return err
}

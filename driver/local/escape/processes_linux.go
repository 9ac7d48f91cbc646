package escape

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"unsafe"

	"golang.org/x/sys/unix"
)

// processes are attempts at other processes' memory, files and lives, and at the scheduler.
var processes = []Attempt{
	{"see a host process", func(t Targets) error { return anyProcess("cmdline", t.HostMarker) }},
	{"signal a host process", func(t Targets) error { return unix.Kill(t.HostPID, 0) }},
	{"signal through a pidfd", func(t Targets) error {
		fd, err := unix.PidfdOpen(t.HostPID, 0)
		if err != nil {
			return err
		}
		return unix.PidfdSendSignal(fd, 0, nil, 0)
	}},
	{"ptrace", func(t Targets) error { return errnoOf(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(t.HostPID), 0, 0) }},
	{"process_vm_readv", func(t Targets) error {
		var to [1]byte
		local := unix.Iovec{Base: &to[0], Len: 1}
		remote := unix.RemoteIovec{Base: t.HostAddress, Len: 1}
		_, err := unix.ProcessVMReadv(t.HostPID, []unix.Iovec{local}, []unix.RemoteIovec{remote}, 0)
		return err
	}},
	{"read a process's memory file", func(t Targets) error {
		file, err := os.Open(fmt.Sprintf("/proc/%d/mem", t.Init))
		if err != nil {
			return err
		}
		_, err = file.ReadAt(make([]byte, 1), int64(t.HostAddress))
		return err
	}},
	{"pidfd_getfd", func(t Targets) error {
		fd, err := unix.PidfdOpen(t.Init, 0)
		if err != nil {
			return err
		}
		_, err = unix.PidfdGetfd(fd, 0, 0)
		return err
	}},
	{"write to a process's memory file", func(t Targets) error {
		file, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", t.Init), os.O_RDWR, 0)
		if err != nil {
			return err
		}
		var value [1]byte
		if _, err := file.ReadAt(value[:], int64(t.HostAddress)); err != nil {
			return err
		}
		_, err = file.WriteAt(value[:], int64(t.HostAddress))
		return err
	}},
	{"process_vm_writev", func(t Targets) error {
		value := [1]byte{42} // what is there
		local := unix.Iovec{Base: &value[0], Len: 1}
		remote := unix.RemoteIovec{Base: t.HostAddress, Len: 1}
		_, err := unix.ProcessVMWritev(t.HostPID, []unix.Iovec{local}, []unix.RemoteIovec{remote}, 0)
		return err
	}},
	{"process_madvise", func(t Targets) error {
		fd, err := unix.PidfdOpen(t.Init, 0)
		if err != nil {
			return err
		}
		page := [2]uintptr{t.HostAddress &^ 4095, 4096}
		return errnoOf(unix.SYS_PROCESS_MADVISE, uintptr(fd), uintptr(unsafe.Pointer(&page)), 1, unix.MADV_COLD, 0)
	}},
	{"kcmp", func(t Targets) error { return errnoOf(unix.SYS_KCMP, uintptr(os.Getpid()), uintptr(t.Init), 1, 0, 0) }}, // KCMP_VM
	{"list process 1's open files", func(t Targets) error { return firstEntry(fmt.Sprintf("/proc/%d/fd/*", t.Init)) }},
	{"change process 1's weight for the OOM killer", func(t Targets) error { return writable(fmt.Sprintf("/proc/%d/oom_score_adj", t.Init)) }},
	{"escape the OOM killer", func(Targets) error { return os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0) }},
	{"end process 1", func(t Targets) error {
		return endProcess(t.Init, func(number unix.Signal) error { return unix.Kill(t.Init, number) })
	}},
	{"end process 1 through a pidfd", func(t Targets) error {
		fd, err := unix.PidfdOpen(t.Init, 0)
		if err != nil {
			return err
		}
		return endProcess(t.Init, func(number unix.Signal) error { return unix.PidfdSendSignal(fd, number, nil, 0) })
	}},
	{"end process 1's first thread", func(t Targets) error {
		return endProcess(t.Init, func(number unix.Signal) error { return unix.Tgkill(t.Init, t.Init, number) })
	}},
	{"signal the session's program through its connection", func(t Targets) error {
		fd, err := peer(t)
		if err != nil {
			return err
		}
		return unix.PidfdSendSignal(fd, 0, nil, 0)
	}},
	{"enter the namespaces of the session's program through its connection", func(t Targets) error {
		fd, err := peer(t)
		if err != nil {
			return err
		}
		return errnoOf(unix.SYS_IOCTL, uintptr(fd), 0xff03, 0) // PIDFD_GET_MNT_NAMESPACE
	}},
	{"execute from memory", func(Targets) error {
		program, err := os.ReadFile("/bin/true")
		if err != nil {
			return err
		}
		fd, err := unix.MemfdCreate("program", 0)
		if err != nil {
			return err
		}
		if _, err := unix.Write(fd, program); err != nil {
			return err
		}
		return exec.Command(fmt.Sprintf("/proc/self/fd/%d", fd)).Run()
	}},
	{"realtime scheduling", func(Targets) error {
		priority := int32(1)
		return errnoOf(unix.SYS_SCHED_SETSCHEDULER, 0, unix.SCHED_FIFO, uintptr(unsafe.Pointer(&priority)))
	}},
	{"deadline scheduling", func(Targets) error {
		return unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_DEADLINE, Runtime: 1e6, Deadline: 1e8, Period: 1e8}, 0)
	}},
	{"raise the priority of input and output", func(Targets) error {
		return errnoOf(unix.SYS_IOPRIO_SET, 1, 0, 1<<13) // IOPRIO_WHO_PROCESS, this one, the realtime class
	}},
}

// endProcess sends a process all signals and reports whether it still lives.
func endProcess(pid int, send func(unix.Signal) error) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	if err := send(unix.SIGKILL); err != nil {
		return err
	}
	for number := unix.Signal(1); number <= 64; number++ {
		_ = send(number)
	}
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 200)
	if err == nil && n == 0 {
		return errors.New("it lives")
	}
	return err
}

// peer returns a pidfd of the process that made the connection.
func peer(t Targets) (int, error) {
	const peerPidfd = 77 // SO_PEERPIDFD
	return unix.GetsockoptInt(t.ConnFD, unix.SOL_SOCKET, peerPidfd)
}

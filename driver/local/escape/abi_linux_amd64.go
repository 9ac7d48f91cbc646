package escape

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// abi are attempts by other ways into the kernel, and at system calls that this architecture has.
var abi = []Attempt{
	{"int 0x80", func(Targets) error {
		if result := int80(20); result < 0 { // getpid
			return unix.Errno(-result)
		}
		return nil
	}},
	{"x32", func(Targets) error { return errnoOf(1<<30 | unix.SYS_GETPID) }},
	{"iopl", func(Targets) error { return errnoOf(unix.SYS_IOPL, 3) }},
	{"ioperm", func(Targets) error { return errnoOf(unix.SYS_IOPERM, 0x80, 1, 1) }},
	{"modify_ldt", func(Targets) error {
		var table [8]byte
		return errnoOf(unix.SYS_MODIFY_LDT, 0, uintptr(unsafe.Pointer(&table)), unsafe.Sizeof(table))
	}},
}

// int80 makes a system call without arguments, by its number in the 32-bit table.
func int80(number int32) (result int32)

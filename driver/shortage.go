package driver

import (
	"errors"
	"syscall"
)

// shortages are what a machine that can make sandboxes, and its programs, may be short of at times.
var shortages = []struct {
	err    syscall.Errno
	remedy string
}{
	{syscall.EMFILE, "allow this program more open files: ulimit -n 4096"},
	{syscall.ENFILE, "allow this machine more open files: sysctl -w fs.file-max=1000000"},
	{syscall.EFBIG, "allow this program larger files, for its own executable and the worker are copied: ulimit -f unlimited"},
	{syscall.EAGAIN, "allow this user or container more processes: ulimit -u 4096, or the container's limit of processes"},
	{syscall.ENOMEM, "free some memory, or allow this program more: ulimit -v unlimited, or the container's limit of memory"},
}

// ShortageRemedy says what to do about an error that tells of a lack of something: open files, processes, memory, or the size of
// files. It is empty for other errors.
func ShortageRemedy(err error) string {
	for _, s := range shortages {
		if errors.Is(err, s.err) {
			return s.remedy
		}
	}
	return ""
}

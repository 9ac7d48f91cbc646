package local

import (
	"io/fs"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestRemedies(t *testing.T) {
	const maxZero, userns, apparmor = "/proc/sys/user/max_user_namespaces", "/proc/sys/kernel/unprivileged_userns_clone",
		"/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
	for name, test := range map[string]struct {
		err   error
		files map[string]string
		want  string // in the first remedy
	}{
		"limit":     {syscall.ENOSPC, map[string]string{maxZero: "0\n"}, "user.max_user_namespaces"},
		"Debian":    {syscall.EPERM, map[string]string{maxZero: "9", userns: "0\n"}, "kernel.unprivileged_userns_clone=1"},
		"Ubuntu":    {syscall.EACCES, map[string]string{userns: "1", apparmor: "1\n"}, "kernel.apparmor_restrict_unprivileged_userns=0"},
		"container": {syscall.EPERM, map[string]string{"/.dockerenv": ""}, "--security-opt systempaths=unconfined"},
		"root":      {errRoot, nil, "another user"},
		"other":     {syscall.EINVAL, map[string]string{"/.dockerenv": "", maxZero: "9"}, "driver/process"},
	} {
		t.Run(name, func(t *testing.T) {
			found := remedies(&SetupError{Step: "x", Err: test.err}, func(path string) ([]byte, error) {
				if content, ok := test.files[path]; ok {
					return []byte(content), nil
				}
				return nil, fs.ErrNotExist
			})
			assert.Contains(t, found[0], test.want)
			assert.Contains(t, found[len(found)-1], "driver/process")
		})
	}
	for err, want := range map[error]string{
		syscall.EMFILE: "ulimit -n", syscall.ENFILE: "fs.file-max", syscall.EFBIG: "ulimit -f", syscall.EAGAIN: "ulimit -u", syscall.ENOMEM: "memory",
	} {
		found := remedies(&SetupError{Step: "x", Err: err}, func(string) ([]byte, error) { return nil, fs.ErrNotExist })
		require.Len(t, found, 1, "another driver would be short of it, too")
		assert.Contains(t, found[0], want)
	}
}

package local

import (
	"io/fs"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestRemedies(t *testing.T) {
	const maxZero, userns, apparmor = "/proc/sys/user/max_user_namespaces", "/proc/sys/kernel/unprivileged_userns_clone",
		"/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
	for name, test := range map[string]struct {
		err   error
		root  bool
		files map[string]string
		want  string // in the first remedy
	}{
		"limit":     {syscall.ENOSPC, false, map[string]string{maxZero: "0\n"}, "user.max_user_namespaces"},
		"Debian":    {syscall.EPERM, false, map[string]string{maxZero: "9", userns: "0\n"}, "kernel.unprivileged_userns_clone=1"},
		"Ubuntu":    {syscall.EACCES, false, map[string]string{userns: "1", apparmor: "1\n"}, "kernel.apparmor_restrict_unprivileged_userns=0"},
		"container": {syscall.EPERM, false, map[string]string{"/.dockerenv": ""}, "--security-opt systempaths=unconfined"},
		"root of a container": {syscall.EPERM, true, map[string]string{"/.dockerenv": ""},
			"--security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined --cap-add SYS_ADMIN"},
		"other": {syscall.EINVAL, false, map[string]string{"/.dockerenv": "", maxZero: "9"}, "driver/process"},
	} {
		t.Run(name, func(t *testing.T) {
			found := remedies(&SetupError{Step: "x", Err: test.err}, test.root, func(path string) ([]byte, error) {
				if content, ok := test.files[path]; ok {
					return []byte(content), nil
				}
				return nil, fs.ErrNotExist
			})
			assert.Contains(t, found[0], test.want)
			assert.Equal(t, test.root, strings.Contains(found[0], "--cap-add"))
			assert.Contains(t, found[len(found)-1], "driver/process")
		})
	}
}

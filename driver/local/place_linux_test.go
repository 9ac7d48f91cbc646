package local

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandboxfn/sbx/driver"
)

// Where groups can be made in version 2 depends on files alone, so plain ones do. The program is, as for a launcher, the parent of
// this process.
func TestFindUnified(t *testing.T) {
	both, memory := []string{driver.LimitMemory, driver.LimitCPUs}, []string{driver.LimitMemory}
	us, other := fmt.Sprintf("%d\n%d\n", os.Getppid(), os.Getpid()), fmt.Sprintf("%d\n1\n", os.Getpid())
	type group struct{ path, controllers, passedOn, processes string }
	for name, test := range map[string]struct {
		own      string
		groups   []group // the first one is the root
		noEvents bool    // the first one is the root of all, and not of a container's view
		user     placement
		root     placement
	}{
		"alone in a scope": {
			"slice/scope", []group{{"", "cpu memory", "cpu memory", ""}, {"slice", "cpu memory", "cpu memory", ""}, {"slice/scope", "cpu memory pids", "", us}}, true,
			placement{2, "slice/scope", both, true}, placement{2, "slice/scope", both, true},
		},
		"alone in a unit of systemd's": {
			"slice/a.service", []group{{"", "cpu memory", "cpu memory", ""}, {"slice", "cpu memory", "cpu memory", ""}, {"slice/a.service", "cpu memory pids", "", us}}, true,
			placement{}, placement{2, "slice", both, false},
		},
		"with others in a session": {
			"slice/session", []group{{"", "cpu memory", "cpu memory", ""}, {"slice", "cpu memory", "cpu memory", ""}, {"slice/session", "cpu memory", "", other}}, true,
			placement{}, placement{2, "slice", both, false},
		},
		"where only memory is passed on": {
			"slice/session", []group{{"", "cpu memory", "memory", ""}, {"slice", "memory", "memory", ""}, {"slice/session", "memory", "", other}}, true,
			placement{}, placement{2, "", both, false},
		},
		"delegated without cpu": {
			"scope", []group{{"", "cpu memory", "memory", ""}, {"scope", "memory", "", us}}, false,
			placement{2, "scope", memory, true}, placement{2, "scope", memory, true},
		},
		"moved before": {
			"scope/sbx-program", []group{{"", "", "", ""}, {"scope", "cpu memory", "memory cpu", ""}, {"scope/sbx-program", "cpu memory", "", other}}, true,
			placement{2, "scope", both, false}, placement{2, "scope", both, false},
		},
		"in a container": {
			"", []group{{"", "cpu memory", "", other}}, false,
			placement{2, "", both, true}, placement{2, "", both, true},
		},
		"at the root": {
			"", []group{{"", "cpu memory", "", other}}, true,
			placement{2, "", both, false}, placement{2, "", both, false},
		},
		"without controllers": {
			"", []group{{"", "hugetlb", "", other}}, true,
			placement{}, placement{},
		},
	} {
		t.Run(name, func(t *testing.T) {
			top := filepath.Join(t.TempDir(), "cgroup")
			for i, g := range test.groups {
				path := filepath.Join(top, g.path)
				require.NoError(t, os.MkdirAll(path, 0o755))
				files := map[string]string{"cgroup.controllers": g.controllers, "cgroup.subtree_control": g.passedOn, "cgroup.procs": g.processes}
				if i > 0 || !test.noEvents {
					files["cgroup.events"] = ""
				}
				for file, content := range files {
					require.NoError(t, os.WriteFile(filepath.Join(path, file), []byte(content), 0o600))
				}
			}
			want := test.user
			if os.Geteuid() == 0 {
				want = test.root
			}
			if len(want.limits) > 0 {
				want.path = filepath.Join(top, want.path)
			}
			own := filepath.Join(top, test.own)
			assert.Equal(t, want, findUnified(own, both, false))
			if isUnit(own) {
				assert.Equal(t, placement{2, own, both, true}, findUnified(own, both, true), "if systemd says so")
			}
		})
	}
	assert.Empty(t, findUnified("", both, false))
}

// What systemd marks as delegated may have others in it.
func TestDelegated(t *testing.T) {
	scope := filepath.Join(t.TempDir(), "scope")
	require.NoError(t, os.Mkdir(scope, 0o755))
	assert.False(t, isDelegated(scope))
	if err := unix.Setxattr(scope, "user.delegate", []byte("0"), 0); err != nil {
		t.Skip("no extended attributes here: ", err)
	}
	assert.False(t, isDelegated(scope))
	require.NoError(t, unix.Setxattr(scope, "user.delegate", []byte("1"), 0))
	assert.True(t, isDelegated(scope))
}

package local_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/local/escape"
)

// uncontrolled are the attempts that fail outside, too, on machines that lack what they need. Everywhere else the
// control must succeed.
var uncontrolled = map[string]string{
	"vsock":                     "needs a kernel with vsock",
	"vsock with high bits":      "needs a kernel with vsock",
	"AF_ALG":                    "needs a kernel with the user-space crypto API",
	"keyctl":                    "needs a kernel with keyrings",
	"add_key":                   "needs a kernel with keyrings",
	"read /proc/keys":           "needs a kernel with keyrings",
	"write the namespace limit": "needs CAP_SYS_RESOURCE, which this root may lack",
	"sysrq":                     "needs a kernel with magic SysRq",
	"read kernel memory":        "needs a kernel with /proc/kcore",
	"read kernel symbols":       "needs a kernel with symbols",
	"read the timer list":       "needs a kernel with /proc/timer_list",
	"io_uring":                  "io_uring may be compiled out or disabled by sysctl",
	"userfaultfd":               "needs a kernel with userfaultfd",
	"perf_event_open":           "needs a kernel with performance events",
	"bpf":                       "needs a kernel with bpf",
	"kexec":                     "needs a kernel with kexec",
	"load a module":             "needs a kernel with modules",
	"quotactl":                  "needs a kernel with quotas",
	"swapon":                    "needs a kernel with swap",
	"TIOCSTI":                   "needs a pseudo terminal",
	"TIOCSTI with high bits":    "needs a pseudo terminal",
}

// workerEscape makes the attempt that ATTEMPT names, or, without it, each in a process of its own. It prints one line
// for each: its name, open or held, and what stopped it.
func workerEscape() int {
	var targets escape.Targets
	if err := json.Unmarshal([]byte(os.Getenv("TARGETS")), &targets); err != nil {
		fmt.Println(err)
		return 1
	}
	for _, attempt := range escape.Attempts {
		switch os.Getenv("ATTEMPT") {
		case "":
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), "ATTEMPT="+attempt.Name)
			if out, err := cmd.CombinedOutput(); err != nil {
				fmt.Printf("%s\theld\tended by %v: %.200q\n", attempt.Name, err, out)
			} else {
				fmt.Print(string(out))
			}
		case attempt.Name:
			if err := attempt.Do(targets); err != nil {
				fmt.Printf("%s\theld\t%s\n", attempt.Name, strings.ReplaceAll(err.Error(), "\n", "; "))
			} else {
				fmt.Printf("%s\topen\t\n", attempt.Name)
			}
		}
	}
	return 0
}

// workerHostage is a process to attack: it says where its memory is, listens, and waits to be killed.
func workerHostage() int {
	secret := []byte{42}
	if err := os.WriteFile("/tmp/neighbour-"+os.Getenv("SECRET"), []byte(os.Getenv("SECRET")), 0o644); err != nil {
		fmt.Println(err)
		return 1
	}
	listener, err := net.Listen("unix", "@neighbour-"+os.Getenv("SECRET"))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(uintptr(unsafe.Pointer(&secret[0])))
	for {
		conn, err := listener.Accept()
		if err != nil {
			return 1
		}
		_ = conn.Close()
	}
}

type outcome struct {
	open   bool
	detail string
}

func outcomes(t *testing.T, output string) map[string]outcome {
	results := map[string]outcome{}
	for line := range strings.Lines(output) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), "\t", 3)
		require.Len(t, fields, 3, line)
		results[fields[0]] = outcome{fields[1] == "open", fields[2]}
	}
	return results
}

func TestEscape(t *testing.T) {
	root := os.Geteuid() == 0
	folder := t.TempDir()
	require.NoError(t, os.Chmod(folder, 0o777))
	secret := fmt.Sprintf("secret%d", os.Getpid())
	t.Setenv("HOST_SECRET", secret)
	targets := escape.Targets{
		Secret: secret, HostFile: filepath.Join(folder, "file"), HostFolder: folder, HostMarker: "marker-" + secret,
		Abstract: "@host-" + secret, Socket: filepath.Join(folder, "socket"), HostPath: folder, Init: 1, Mount: "/usr",
		NeighbourFile: "/tmp/neighbour-" + secret + "n", NeighbourMarker: "SECRET=" + secret + "n",
		NeighbourAbstract: "@neighbour-" + secret + "n",
	}
	require.NoError(t, os.WriteFile(targets.HostFile, []byte(secret), 0o644))
	inherited, err := unix.Open(targets.HostFile, unix.O_RDONLY, 0) // not close-on-exec
	require.NoError(t, err)
	defer unix.Close(inherited)
	for _, address := range []*string{&targets.TCP, &targets.Abstract, &targets.Socket} {
		network, listenOn := "unix", *address
		if address == &targets.TCP {
			network, listenOn = "tcp", "127.0.0.1:0"
		}
		listener, err := net.Listen(network, listenOn)
		require.NoError(t, err)
		defer listener.Close()
		if address == &targets.TCP {
			*address = listener.Addr().String()
		}
	}

	// A process of the host.
	hostage := exec.Command("/proc/self/exe", targets.HostMarker)
	hostage.Env = []string{testWorker + "=hostage", "SECRET=" + secret, "HOST_SECRET=" + secret}
	out, err := hostage.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, hostage.Start())
	defer func() {
		_ = hostage.Process.Kill()
		_ = hostage.Wait()
		_ = os.Remove("/tmp/neighbour-" + secret)
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	address, err := strconv.ParseUint(strings.TrimSpace(line), 10, 64)
	require.NoError(t, err, line)
	targets.HostPID, targets.HostAddress = hostage.Process.Pid, uintptr(address)

	// Another sandbox.
	session := open(t)
	_, neighbour := start(t, session, "neighbour", "hostage", "SECRET="+secret+"n")
	_, err = bufio.NewReader(neighbour.Stdout()).ReadString('\n')
	require.NoError(t, err)

	data, err := json.Marshal(targets)
	require.NoError(t, err)
	_, p := start(t, session, "prisoner", "escape", "TARGETS="+string(data))
	stdout, stderr, exit := output(t, p)
	require.Equal(t, driver.Exit{}, exit, stdout+stderr)
	inside := outcomes(t, stdout)
	require.Len(t, inside, len(escape.Attempts))
	for _, attempt := range escape.Attempts {
		assert.False(t, inside[attempt.Name].open, "open inside: %s", attempt.Name)
		t.Logf("held inside: %s: %s", attempt.Name, inside[attempt.Name].detail)
	}

	if !root {
		t.Log("the controls need root")
		return
	}
	outside := outcomes(t, runControls(t, targets))
	for _, attempt := range escape.Attempts {
		if result := outside[attempt.Name]; !result.open {
			reason, known := uncontrolled[attempt.Name]
			assert.True(t, known, "no control: %s: %s", attempt.Name, result.detail)
			t.Logf("no control: %s: %s (%s)", attempt.Name, result.detail, reason)
		}
	}
}

// runControls makes the attempts outside, as root, in a mount and a uts namespace of their own, so that what succeeds
// harms nobody.
func runControls(t *testing.T, targets escape.Targets) string {
	targets.Init = targets.HostPID
	targets.Mount = t.TempDir()
	targets.HostPath = targets.Mount
	targets.NeighbourAbstract = targets.Abstract
	paths, err := filepath.Glob("/proc/[0-9]*/root" + targets.NeighbourFile)
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	targets.NeighbourFile = paths[0]
	require.NoError(t, unix.Mount("tmpfs", targets.Mount, "tmpfs", unix.MS_RDONLY, ""))
	defer func() { assert.NoError(t, unix.Unmount(targets.Mount, unix.MNT_DETACH)) }()

	// Each attempt is made with the mounts as they are now.
	var all strings.Builder
	data, err := json.Marshal(targets)
	require.NoError(t, err)
	for _, attempt := range escape.Attempts {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), testWorker+"=escape", "TARGETS="+string(data), "ATTEMPT="+attempt.Name, "TMPDIR="+targets.HostFolder)
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS, Setsid: true}
		out, err := cmd.Output()
		if err != nil {
			out = fmt.Appendf(nil, "%s\theld\tended by %v\n", attempt.Name, err)
		}
		all.Write(out)
	}
	return all.String()
}

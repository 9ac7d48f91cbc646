package local_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/local"
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
	"load a module from a file": "needs a kernel with modules",
	"unload a module":           "needs a kernel with modules",
	"kexec_file_load":           "needs a kernel with kexec",
	"find a key":                "needs a kernel with keyrings",
	"request_key":               "needs a kernel with keyrings",
	"io_uring_enter":            "io_uring may be compiled out",
	"ping socket":               "needs root's group in net.ipv4.ping_group_range",
	"audit":                     "needs a kernel with audit",
	"netfilter":                 "needs a kernel with netfilter",
	"socket diagnosis":          "needs a kernel with socket diagnosis",
	"mount cgroup":              "needs a kernel with control groups of version 1",
	"escape the OOM killer":     "needs CAP_SYS_RESOURCE, which this root may lack",
	"raise a limit":             "needs CAP_SYS_RESOURCE, which this root may lack",
	"message queue bomb":        "needs a limit of message queues above the sandbox's",
	"descriptor bomb":           "needs a limit of open files above the sandbox's",
	"signal bomb":               "needs a limit of queued signals above the sandbox's",
	"process bomb":              "needs a limit of processes above the sandbox's",
	"thread bomb":               "needs a limit of threads above the sandbox's",
	"pipe of unusual size":      "needs CAP_SYS_RESOURCE, which this root may lack",
	"huge pages":                "needs a kernel with huge pages",
	"fanotify":                  "needs a kernel with fanotify",
	"int 0x80":                  "needs a kernel that runs 32-bit programs",
	"x32":                       "needs a kernel that runs x32 programs",
	"iopl":                      "needs a kernel with access to ports, not locked down",
	"ioperm":                    "needs a kernel with access to ports, not locked down",
	"modify_ldt":                "needs a kernel with local descriptor tables",
	"memfd_secret":              "needs a kernel with secret memory",
	"acct":                      "needs a kernel with process accounting",
	"share the time namespace":  "needs a kernel with time namespaces",
	"unshare a time namespace":  "needs a kernel with time namespaces",
	"see the own control group": "needs a control group other than the root",
	"crash with a core dump":    "needs a limit of core dumps above 0",
	"signal the session's program through its connection":                  "needs Linux 6.5",
	"enter the namespaces of the session's program through its connection": "needs Linux 6.9",
	"quotactl":               "needs a kernel with quotas",
	"swapon":                 "needs a kernel with swap",
	"TIOCSTI":                "needs a kernel that has it for root",
	"TIOCSTI with high bits": "needs a kernel that has it for root",
	"use a console":          "needs a console",
}

// unheld are the attempts that succeed inside. docs/security.md says the same.
var unheld = map[string]string{
	"execute from memory":      "a worker may execute what it likes",
	"lock a host file":         "locks on what /usr shows are the host's",
	"share the time namespace": "the clocks are the machine's",
	"memory bomb":              "memory is not limited",
	withoutLandlock:            "only Landlock holds it, which this kernel lacks",
}

// scratchMiB is the size of the folders that attempts fill.
const scratchMiB = 16

const withoutLandlock = "give a device commands"

// landlockVersion is the kernel's; that of the driver decides what it does.
func landlockVersion() int {
	version, _, errno := unix.RawSyscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0
	}
	return int(version)
}

// workerEscape makes the attempt that ATTEMPT names, or, without it, each in a process of its own. It prints one line
// for each: its name, open or held, and what stopped it.
func workerEscape() int {
	var targets escape.Targets
	if err := json.Unmarshal([]byte(os.Getenv("TARGETS")), &targets); err != nil {
		fmt.Println(err)
		return 1
	}
	var conn *os.File
	if os.Getenv("ATTEMPT") == "" {
		conn = os.NewFile(driver.ConnFD, "conn")
		spareThreads()
		if _, err := conn.Read(make([]byte, 1)); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	for _, attempt := range escape.Attempts {
		switch os.Getenv("ATTEMPT") {
		case "":
			if slices.Contains(strings.Split(os.Getenv("SKIP"), ","), attempt.Name) {
				continue
			}
			cmd := exec.Command("/proc/self/exe")
			cmd.ExtraFiles = []*os.File{conn} // the same number
			cmd.Env = append(os.Environ(), "ATTEMPT="+attempt.Name)
			if out, err := cmd.CombinedOutput(); err != nil {
				fmt.Printf("%s\theld\tended by %v: %.200q\n", attempt.Name, err, out)
			} else {
				fmt.Print(string(out))
			}
		case attempt.Name:
			err := error(nil)
			if os.Getenv("CONTROL") != "" {
				err = escape.Control(attempt.Name, &targets)
			}
			if err == nil {
				err = attempt.Do(targets)
			}
			if err != nil {
				fmt.Printf("%s\theld\t%s\n", attempt.Name, strings.ReplaceAll(err.Error(), "\n", "; "))
			} else {
				fmt.Printf("%s\topen\t\n", attempt.Name)
			}
		}
	}
	return 0
}

// spareThreads gives the runtime all the threads that it may need while an attempt has taken the rest.
func spareThreads() {
	var locked, ended sync.WaitGroup
	end := make(chan struct{})
	for range 30 {
		locked.Add(1)
		ended.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			locked.Done()
			<-end
		})
	}
	locked.Wait()
	close(end)
	ended.Wait()
}

// workerHostage is a process to attack: it makes what others may find, says where its memory is and on which port it
// listens, and waits to be killed.
func workerHostage() int {
	key, _ := strconv.Atoi(os.Getenv("KEY"))
	if err := errors.Join(leaveTraces(os.Getenv("SECRET"), key)...); err != nil {
		fmt.Println(err)
		return 1
	}
	listener, err := net.Listen("unix", "@neighbour-"+os.Getenv("SECRET"))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	port, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	secret := []byte{42}
	fmt.Println(uintptr(unsafe.Pointer(&secret[0])), port.Addr())
	for {
		conn, err := listener.Accept()
		if err != nil {
			return 1
		}
		_ = conn.Close()
	}
}

// leaveTraces makes files and System V and POSIX objects, which outlive the process where its namespace does.
func leaveTraces(secret string, key int) []error {
	call := func(number uintptr, a, b, c, d uintptr) error {
		if _, _, errno := unix.RawSyscall6(number, a, b, c, d, 0, 0); errno != 0 {
			return errno
		}
		return nil
	}
	const create = 0o1000 | 0o666 // IPC_CREAT
	queue, err := unix.BytePtrFromString("neighbour-" + secret)
	_ = call(unix.SYS_MQ_OPEN, uintptr(unsafe.Pointer(queue)), unix.O_CREAT|unix.O_RDWR, 0o666, 0) // refused in a sandbox
	return []error{
		err,
		os.WriteFile("/tmp/neighbour-"+secret, []byte(secret), 0o644),
		os.WriteFile("/dev/shm/neighbour-"+secret, []byte(secret), 0o644),
		call(unix.SYS_SHMGET, uintptr(key), 4096, create, 0),
		call(unix.SYS_MSGGET, uintptr(key), create, 0, 0),
		call(unix.SYS_SEMGET, uintptr(key), 1, create, 0),
	}
}

// removeTraces removes from the host what its hostage has made.
func removeTraces(secret string, key int) {
	_ = os.Remove("/tmp/neighbour-" + secret)
	_ = os.Remove("/dev/shm/neighbour-" + secret)
	shm, _, _ := unix.RawSyscall(unix.SYS_SHMGET, uintptr(key), 0, 0)
	_, _, _ = unix.RawSyscall(unix.SYS_SHMCTL, shm, unix.IPC_RMID, 0)
	queue, _, _ := unix.RawSyscall(unix.SYS_MSGGET, uintptr(key), 0, 0)
	_, _, _ = unix.RawSyscall(unix.SYS_MSGCTL, queue, unix.IPC_RMID, 0)
	semaphores, _, _ := unix.RawSyscall(unix.SYS_SEMGET, uintptr(key), 0, 0)
	_, _, _ = unix.RawSyscall(unix.SYS_SEMCTL, semaphores, 0, unix.IPC_RMID)
	if name, err := unix.BytePtrFromString("neighbour-" + secret); err == nil {
		_, _, _ = unix.RawSyscall(unix.SYS_MQ_UNLINK, uintptr(unsafe.Pointer(name)), 0, 0)
	}
}

// introduction reads what a hostage says of itself.
func introduction(t *testing.T, out io.Reader) (address uintptr, port string) {
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	_, err = fmt.Sscan(line, &address, &port) // or why it couldn't do its work
	require.NoError(t, err, line)
	return address, port
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

// attempt makes all attempts but those to skip in a sandbox of the driver, next to another one, at targets that aim has changed. It returns
// what came of each, and the targets, with the port on which the host's hostage listens.
func attempt(t *testing.T, d driver.Driver, aim func(*escape.Targets), skip ...string) (inside map[string]outcome, targets escape.Targets, port string) {
	folder := t.TempDir()
	require.NoError(t, os.Chmod(folder, 0o777))
	secret := fmt.Sprintf("secret%d", os.Getpid())
	t.Setenv("HOST_SECRET", secret)
	targets = escape.Targets{
		Secret: secret, HostFile: filepath.Join(folder, "file"), HostFolder: folder, HostMarker: "marker-" + secret,
		Abstract: "@host-" + secret, Socket: filepath.Join(folder, "socket"), HostPath: folder, Init: 1, Mount: "/usr",
		NeighbourFile: "/tmp/neighbour-" + secret + "n", NeighbourMarker: "SECRET=" + secret + "n",
		NeighbourAbstract: "@neighbour-" + secret + "n", NeighbourShared: "/dev/shm/neighbour-" + secret + "n",
		NeighbourQueue: "neighbour-" + secret + "n", NeighbourKey: os.Getpid(),
		Engine: filepath.Join(folder, "docker.sock"), AbstractEngine: "@/containerd-shim/" + secret + ".sock",
		Program: "/.sbx/agent", ScratchMiB: scratchMiB, ConnFD: driver.ConnFD, Namespaces: map[string]string{},
	}
	for _, name := range []string{"user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"} {
		targets.Namespaces[name], _ = os.Readlink("/proc/self/ns/" + name)
	}
	require.NoError(t, os.WriteFile(targets.HostFile, []byte(secret), 0o644))
	inherited, err := unix.Open(targets.HostFile, unix.O_RDONLY, 0) // not close-on-exec
	require.NoError(t, err)
	t.Cleanup(func() { _ = unix.Close(inherited) })
	for _, address := range []*string{&targets.TCP, &targets.Abstract, &targets.Socket, &targets.Engine, &targets.AbstractEngine} {
		network, listenOn := "unix", *address
		if address == &targets.TCP {
			network, listenOn = "tcp", "127.0.0.1:0"
		}
		listener, err := net.Listen(network, listenOn)
		require.NoError(t, err)
		t.Cleanup(func() { _ = listener.Close() })
		if address == &targets.TCP {
			*address = listener.Addr().String()
		}
	}

	// A process of the host.
	hostage := exec.Command("/proc/self/exe", targets.HostMarker)
	hostage.Env = []string{testWorker + "=hostage", "SECRET=" + secret, "HOST_SECRET=" + secret, fmt.Sprint("KEY=", targets.NeighbourKey)}
	out, err := hostage.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, hostage.Start())
	t.Cleanup(func() {
		_ = hostage.Process.Kill()
		_ = hostage.Wait()
		removeTraces(secret, targets.NeighbourKey)
	})
	var address uintptr
	address, port = introduction(t, out)
	targets.HostPID, targets.HostAddress = hostage.Process.Pid, address

	// Another sandbox.
	session, err := d.Open(testContext(t), spec(t))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, session.Close(testContext(t))) })
	_, neighbour := start(t, session, "neighbour", "hostage", "SECRET="+secret+"n", fmt.Sprint("KEY=", targets.NeighbourKey))
	_, targets.NeighbourTCP = introduction(t, neighbour.Stdout())
	for _, id := range roles(t, sessionID) {
		targets.NeighbourPID, _ = strconv.Atoi(id) // the launcher's at worst: as far outside
	}

	aim(&targets)
	data, err := json.Marshal(targets)
	require.NoError(t, err)
	_, p := start(t, session, "prisoner", "escape", "TARGETS="+string(data), "SKIP="+strings.Join(skip, ","))
	_, err = p.Conn().Write([]byte("x"))
	require.NoError(t, err)
	stdout, stderr, exit := output(t, p)
	require.Equal(t, driver.Exit{}, exit, stdout+stderr)
	inside = outcomes(t, stdout)
	require.Len(t, inside, len(escape.Attempts)-len(skip))
	return inside, targets, port
}

// held fails the test for each attempt that succeeded and has no reason in unheld that docs/security.md has, too, by the words
// of explained with the attempt's name.
func held(t *testing.T, inside map[string]outcome, unheld map[string]string, explained string) {
	text, _ := os.ReadFile("../../docs/security.md") // not where the test alone is
	page := strings.Join(strings.Fields(string(text)), " ")
	open := 0
	for _, attempt := range escape.Attempts {
		result, reason := inside[attempt.Name], unheld[attempt.Name]
		if !result.open {
			t.Logf("held inside: %s: %s", attempt.Name, result.detail)
			continue
		}
		open++
		assert.NotEmpty(t, reason, "open inside: %s", attempt.Name)
		if page != "" {
			assert.Contains(t, page, fmt.Sprintf(explained, attempt.Name), "docs/security.md explains it")
		}
		t.Logf("open inside: %s (%s)", attempt.Name, reason)
	}

	t.Logf("%d attempts, %d held, %d open and explained", len(inside), len(inside)-open, open)
}

func TestEscape(t *testing.T) {
	inside, targets, port := attempt(t, local.New(&local.Options{ScratchMiB: scratchMiB}), func(*escape.Targets) {})
	reasons := maps.Clone(unheld)
	if landlockVersion() >= 5 {
		delete(reasons, withoutLandlock)
	}
	held(t, inside, reasons, `"%s" is open`)
	if os.Geteuid() != 0 {
		t.Log("the controls need root")
		return
	}
	outside, without := outcomes(t, runControls(t, targets, port)), 0
	for _, attempt := range escape.Attempts {
		if result := outside[attempt.Name]; !result.open {
			without++
			reason, known := uncontrolled[attempt.Name]
			assert.True(t, known, "no control: %s: %s", attempt.Name, result.detail)
			t.Logf("no control: %s: %s (%s)", attempt.Name, result.detail, reason)
		}
	}
	t.Logf("%d attempts without a control", without)
}

// runControls makes the attempts outside, as root, in a mount and a uts namespace of their own, so that what succeeds
// harms nobody.
func runControls(t *testing.T, targets escape.Targets, port string) string {
	targets.Init = targets.HostPID
	targets.Mount = t.TempDir()
	targets.HostPath = targets.Mount
	targets.NeighbourAbstract, targets.NeighbourPID, targets.Program = targets.Abstract, targets.HostPID, targets.HostFile
	targets.NeighbourShared = strings.TrimSuffix(targets.NeighbourShared, "n")
	targets.NeighbourQueue = strings.TrimSuffix(targets.NeighbourQueue, "n")
	targets.NeighbourTCP = port
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
		cmd.Env = append(os.Environ(), testWorker+"=escape", "TARGETS="+string(data), "ATTEMPT="+attempt.Name, "TMPDIR="+targets.HostFolder, "CONTROL=1")
		cmd.Dir = targets.HostFolder
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if !strings.HasPrefix(attempt.Name, "share the") { // they compare namespaces
			cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS
		}
		out, err := cmd.Output()
		if err != nil {
			out = fmt.Appendf(nil, "%s\theld\tended by %v\n", attempt.Name, err)
		}
		all.Write(out)
	}
	return all.String()
}

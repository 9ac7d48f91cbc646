package local_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/sandboxfn/sbx/driver"
)

// The worker of these tests is the test binary itself: testWorker names the little program that it runs.
const testWorker = "TEST_WORKER"

func TestMain(m *testing.M) {
	if name := os.Getenv(testWorker); name != "" {
		syscall.Exit(workers[name]()) // os.Exit sleeps in race builds
	}
	goleak.VerifyTestMain(m)
}

var workers = map[string]func() int{
	"echo":     workerEcho,
	"patient":  func() int { signal.Ignore(syscall.SIGTERM); return workerEcho() },
	"exit":     func() int { code, _ := strconv.Atoi(os.Getenv("CODE")); return code },
	"signal":   workerSignal,
	"look":     workerLook,
	"family":   workerFamily,
	"busy":     workerBusy,
	"escape":   workerEscape,
	"hostage":  workerHostage,
	"client":   workerClient,
	"memory":   workerMemory,
	"spin":     workerSpin,
	"fork":     workerFork,
	"fill":     workerFill,
	"limits":   workerLimits,
	"limited":  workerLimited,
	"passer":   workerPasser,
	"closed":   workerClosed,
	"full":     workerFull,
	"zombies":  workerZombies,
	"signals":  workerSignals,
	"terminal": workerTerminal,
	"lingers":  workerLingers,
	"mounts":   workerMounts,
	"list":     workerList,
	"root":     workerRoot,
}

func ready() { fmt.Fprintln(os.NewFile(driver.HandshakeFD, "handshake"), "ready") }

// workerEcho returns what comes on the connection, until that ends.
func workerEcho() int {
	fmt.Println("to stdout")
	fmt.Fprintln(os.Stderr, "to stderr")
	ready()
	conn, err := net.FileConn(os.NewFile(driver.ConnFD, "conn"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	_, _ = io.Copy(conn, conn)
	return 0
}

func workerSignal() int {
	signal.Reset()
	number, _ := strconv.Atoi(os.Getenv("CODE"))
	_ = syscall.Kill(os.Getpid(), syscall.Signal(number))
	return forever()
}

// workerLook says what a worker finds around it.
func workerLook() int {
	folder, _ := os.Getwd()
	host, _ := os.Hostname()
	fmt.Println("cwd", folder)
	fmt.Println("host", host)
	fmt.Println("uid", os.Getuid(), os.Getgid())
	fmt.Println("env", strings.Join(os.Environ(), " "))
	entries, _ := os.ReadDir("/proc/self/fd")
	var fds []string
	for _, entry := range entries {
		// The descriptors of the runtime (its poller's, and the folder's being read) are not inherited ones.
		if target, err := os.Readlink("/proc/self/fd/" + entry.Name()); err == nil && !strings.HasPrefix(target, "anon_inode:") {
			fds = append(fds, entry.Name())
		}
	}
	fmt.Println("fds", strings.Join(fds, " "))
	stdin, err := io.ReadAll(os.Stdin)
	fmt.Println("stdin", len(stdin), err)
	session, err := unix.Getsid(0)
	fmt.Println("leads its session", session == os.Getpid(), err)
	var core unix.Rlimit
	fmt.Println("core", unix.Getrlimit(unix.RLIMIT_CORE, &core), core)
	fmt.Printf("mask %03o\n", unix.Umask(0o022))
	for _, name := range []string{"user_namespaces", "mnt_namespaces", "inotify_instances"} {
		limit, err := os.ReadFile("/proc/sys/user/max_" + name)
		fmt.Println(name, strings.TrimSpace(string(limit)), err)
	}
	var folder1, folder2 unix.Statfs_t
	fmt.Println("inodes", unix.Statfs("/tmp", &folder1), folder1.Files, unix.Statfs("/work", &folder2), folder2.Files)
	fmt.Println("work", os.WriteFile("/work/file", []byte("x"), 0o600))
	fmt.Println("tmp", os.WriteFile("/tmp/file", []byte("x"), 0o600))
	fmt.Println("shm", os.WriteFile("/dev/shm/file", []byte("x"), 0o600))
	return 0
}

// workerRoot says how its root is mounted.
func workerRoot() int {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	for mount := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(mount); fields[4] == "/" {
			fmt.Println(fields[len(fields)-1])
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// workerFamily leaves descendants that try to outlive it: each holds a copy of stdout and of the connection.
func workerFamily() int {
	for range 3 {
		child := exec.Command("/bin/sh", "-c", "trap '' TERM HUP INT; setsid sleep 1000 & sleep 1000 & wait")
		child.Stdout, child.Stderr = os.Stdout, os.Stderr
		child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		child.ExtraFiles = []*os.File{os.NewFile(driver.ConnFD, "conn")}
		if err := child.Start(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	ready()
	if os.Getenv("CODE") != "" {
		code, _ := strconv.Atoi(os.Getenv("CODE"))
		return code
	}
	return forever()
}

// workerBusy uses what ordinary Go programs use: goroutines, timers, the network, other programs, files, locks.
func workerBusy() int {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println("listen:", err)
		return 1
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(conn, conn); _ = conn.Close() }()
		}
	}()
	errs := make(chan error)
	for range 50 {
		go func() {
			conn, err := net.DialTimeout("tcp", listener.Addr().String(), 5*time.Second)
			if err != nil {
				errs <- err
				return
			}
			defer conn.Close()
			fmt.Fprintln(conn, "hello")
			_, err = bufio.NewReader(conn).ReadString('\n')
			errs <- err
		}()
	}
	for range 50 {
		if err := <-errs; err != nil {
			fmt.Println("dial:", err)
			return 1
		}
	}
	for _, line := range []string{"echo hello | tr a-z A-Z", "ls / /etc /proc/self >/dev/null && id -un", "awk 'BEGIN{print 6*7}'", "mkfifo p && rm p"} {
		out, err := exec.Command("/bin/sh", "-c", line).CombinedOutput()
		fmt.Printf("%s: %q %v\n", line, out, err)
	}
	interfaces, err := net.Interfaces()
	fmt.Println("interfaces:", len(interfaces), err)
	<-time.After(time.Millisecond)
	return 0
}

// forever waits until the process is killed. An empty select would end one that is built without cgo: nothing else is to be done there.
func forever() int {
	for {
		time.Sleep(time.Hour)
	}
}

package local_test

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sandboxfn/sbx/driver"
)

// workerSignals sends process 1 every signal in every way, and says whether it itself lived on.
func workerSignals() int {
	ready()
	if _, err := os.NewFile(driver.ConnFD, "conn").Read(make([]byte, 1)); err != nil {
		return 1
	}
	status, _ := os.ReadFile("/proc/thread-self/status")
	_, ignored, _ := strings.Cut(string(status), "SigIgn:")
	fmt.Println("ignores", strings.Fields(ignored)[0])
	for signal := unix.Signal(1); signal <= 64; signal++ {
		_ = unix.Kill(1, signal)
		_ = unix.Tgkill(1, 1, signal)
		// As if the kernel had sent it: no user, but a fault.
		info := [32]int32{int32(signal), 0, -1} // si_code SI_QUEUE
		_ = errnoOf(unix.SYS_RT_SIGQUEUEINFO, 1, uintptr(signal), uintptr(unsafe.Pointer(&info)))
		_ = errnoOf(unix.SYS_RT_TGSIGQUEUEINFO, 1, 1, uintptr(signal), uintptr(unsafe.Pointer(&info)))
	}
	time.Sleep(100 * time.Millisecond)
	fmt.Println("alive")
	return 3
}

func errnoOf(number uintptr, a ...uintptr) error {
	var arguments [4]uintptr
	copy(arguments[:], a)
	if _, _, errno := syscall.RawSyscall6(number, arguments[0], arguments[1], arguments[2], arguments[3], 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// No signal that a worker can send ends process 1, and the worker itself has all with their defaults; but that those which libc keeps for
// itself, and which GNU make has its children ignore, are as this process has them.
func TestSignalsToProcess1(t *testing.T) {
	_, p := start(t, open(t), "one", "signals")
	awaitReady(t, p)
	_, err := p.Conn().Write([]byte("x"))
	require.NoError(t, err)
	stdout, _, exit := output(t, p)
	const ofLibc = 7 << (32 - 1)
	assert.Equal(t, fmt.Sprintf("ignores %016x\nalive\n", number(t, os.Getpid(), "SigIgn", 16)&ofLibc), stdout)
	assert.Equal(t, driver.Exit{Code: 3}, exit)
}

package sbx_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"
)

// lowLevel is what Crash does that not every system can.
var lowLevel = map[string]func() error{}

// Crash prepares as it is told, and then ends as it is told: panics in the call's goroutine, or anything that ends the
// process.
func Crash(_ context.Context, prepare, end string) (string, error) {
	switch prepare {
	case "":
	case "print":
		fmt.Println("a word before")
	case "forge":
		fmt.Fprintln(os.Stderr, "panic: forged\n\ngoroutine 1 [running]:\nmain.forged()\n\t/forged.go:1 +0x1\n\nfatal error: forged")
	case "close stderr":
		_ = os.Stderr.Close()
	default:
		if err := lowLevel[prepare](); err != nil {
			return "", err
		}
	}
	switch end {
	case "return":
		return "returned", nil
	case "SIGABRT", "SIGSEGV", "SIGKILL", "SIGTERM":
		self, err := os.FindProcess(os.Getpid())
		if err != nil {
			return "", err
		}
		signals := map[string]os.Signal{"SIGABRT": syscall.SIGABRT, "SIGSEGV": syscall.SIGSEGV, "SIGKILL": syscall.SIGKILL, "SIGTERM": syscall.SIGTERM}
		signal.Reset(syscall.SIGTERM) // which a worker outlives otherwise
		if err := self.Signal(signals[end]); err != nil {
			return "", err
		}
		time.Sleep(time.Hour) // the program ends first
	case "exit 0":
		os.Exit(0)
	case "exit 3":
		os.Exit(3)
	case "log.Fatal":
		log.Fatal("no way out")
	case "hoard":
		var all [][]byte
		for {
			piece := make([]byte, 16<<20)
			for i := 0; i < len(piece); i += 4 << 10 {
				piece[i] = 1
			}
			all = append(all, piece)
			runtime.KeepAlive(all)
		}
	case "cut", "close", "exec":
		if err := lowLevel[end](); err != nil {
			return "", err
		}
		select {}
	}
	if elsewhere, ok := strings.CutPrefix(end, "elsewhere: "); ok {
		go misbehave(elsewhere)
		time.Sleep(time.Hour) // the program ends first
	}
	misbehave(end)
	return "", errors.New("still there")
}

// misbehave ends the goroutine, or the process.
func misbehave(how string) {
	switch how {
	case "panic":
		panic("boom")
	case "lines":
		panic("boom\n\nand more")
	case "error":
		panic(fmt.Errorf("about %w", io.EOF))
	case "nested":
		defer func() { panic("second") }()
		panic("first")
	case "repanic":
		defer func() { panic(recover()) }()
		panic("first")
	case "wrapped":
		defer func() { panic(fmt.Sprint("again: ", recover())) }()
		panic("first")
	case "runtime error":
		var list []int
		_ = list[len(how)] //nolint:govet // the panic under test
	case "nil":
		panic(nil) //nolint:govet // the panic under test
	case "goexit":
		runtime.Goexit()
	case "panic in goexit":
		defer func() { panic("after the end") }()
		runtime.Goexit()
	case "overflow":
		debug.SetMaxStack(16 << 20) // filling 1 GB takes seconds
		fmt.Println(recurse(1))
	case "maps":
		m := map[int]int{}
		for range 4 {
			go func() {
				for i := 0; ; i++ {
					m[i%10] = i
				}
			}()
		}
		time.Sleep(time.Hour) // the program ends first
	case "unlock":
		var mu sync.Mutex
		mu.Unlock()
	case "deadlock":
		select {}
	}
}

func recurse(n int) int { return recurse(n+1) + n } //nolint:staticcheck // it has no end

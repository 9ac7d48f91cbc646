package sbx

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/term"
)

// Shell runs a program of the sandbox, /bin/sh if name is empty, on this program's own terminal, which must be standard input; what it writes goes to standard
// output. Every key goes to it, Ctrl-C too, and it learns when the terminal's size changes. It has this program's TERM. When Shell returns, the terminal is as it was
// before. The error is that of [Cmd.Run]: an [*ExitError] has the exit code.
//
// An interrupt, a hangup or SIGTERM that is sent to this program meanwhile ends the shell, and Shell returns an error that says so. One Shell
// may run at a time.
func (sb *Sandbox) Shell(ctx context.Context, name string, args ...string) error {
	return sb.shell(ctx, os.Stdin, os.Stdout, name, args...)
}

func (sb *Sandbox) shell(ctx context.Context, in, out *os.File, name string, args ...string) (err error) {
	name = cmp.Or(name, "/bin/sh")
	if ctx == nil {
		return sb.fail("shell", errNilContext)
	}
	fd := int(in.Fd())
	if !term.IsTerminal(fd) {
		return sb.fail("shell", &OptionError{Option: "Shell", Reason: "needs a terminal as standard input; run the program by Command instead"})
	}
	if err := sb.Start(ctx); err != nil { // while keys still mean what they always do
		return err
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	cmd := sb.CommandContext(ctx, name, args...)
	size := sizeOf(fd)
	cmd.Terminal = &size
	if term := os.Getenv("TERM"); term != "" {
		cmd.Env = []string{"TERM=" + term}
	}
	keys, err := newKeys(in)
	if err != nil {
		return sb.fail("shell", err)
	}
	defer keys.close()
	cmd.Stdin, cmd.Stdout = keys, out
	restore, err := makeRaw(fd)
	if err != nil {
		return sb.fail("shell", err)
	}
	defer restore()

	signals := make(chan os.Signal, 8)
	signal.Notify(signals, append(sizeSignals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)...)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return err
	}
	for {
		select {
		case <-cmd.run.over:
			keys.end() // else Wait would wait for a key
			return cmd.Wait()
		case got := <-signals:
			if slices.Contains(sizeSignals, got) {
				rawAgain(fd)
				_ = cmd.Resize(sizeOf(fd)) // if it fails, the size stays
				continue
			}
			end(fmt.Errorf("this program got a signal: %v", got))
		}
	}
}

// sizeOf is the size of a terminal, or what it most often is.
func sizeOf(fd int) Terminal {
	columns, rows, err := term.GetSize(fd)
	if err != nil || columns <= 0 || rows <= 0 {
		return Terminal{Rows: 24, Columns: 80}
	}
	return Terminal{Rows: uint16(rows), Columns: uint16(columns)}
}

// raw is what restores a terminal that is in raw mode, for CloseOnSignal too; nil if none is.
var raw struct {
	sync.Mutex
	restore func()
}

// makeRaw puts a terminal into raw mode.
func makeRaw(fd int) (restore func(), err error) {
	raw.Lock()
	defer raw.Unlock()
	if raw.restore != nil {
		return nil, &OptionError{Option: "Shell", Reason: "runs already; wait for its end"}
	}
	state, err := term.MakeRaw(fd)
	if err != nil {
		return nil, fmt.Errorf("put the terminal into raw mode: %w", err)
	}
	raw.restore = func() { _ = term.Restore(fd, state) } // it worked before, and there is nothing else to try
	return restoreTerminal, nil
}

// rawAgain puts a terminal back into raw mode that another program has had, as a shell while this program was stopped.
func rawAgain(fd int) {
	raw.Lock()
	defer raw.Unlock()
	if raw.restore != nil {
		_, _ = term.MakeRaw(fd) // it worked before, and what is to be restored stays
	}
}

func restoreTerminal() {
	raw.Lock()
	defer raw.Unlock()
	if raw.restore != nil {
		raw.restore()
		raw.restore = nil
	}
}

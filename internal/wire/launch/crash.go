package launch

import (
	"cmp"
	"slices"
	"strings"

	"github.com/sandboxfn/sbx/internal/wire"
)

// CrashKind says how the Go runtime ended a process.
type CrashKind int

// The kinds of crashes.
const (
	CrashFatal         CrashKind = iota // any fatal error that is none of those below
	CrashPanic                          // a panic that nothing recovered
	CrashStackOverflow                  // a goroutine's stack outgrew its limit
	CrashOutOfMemory                    // the system refused the runtime more memory
	CrashSignal                         // a signal that Go programs crash from, of a fault in C code too
	CrashNoThread                       // the system refused the runtime another thread
)

// A Crash is what the Go runtime printed when it ended a process. All of it is the word of the sandbox.
type Crash struct {
	Kind CrashKind
	// Message is the panic's value, the text of the fatal error, or "SIGABRT: abort". It can be empty.
	Message string
	// Stack is the stack of the goroutine that crashed, as runtime/debug prints stacks; empty if there is none.
	Stack string
	// Text is all that was printed, as far as it was kept.
	Text string
}

// String is the message and, below it, the stack.
func (c *Crash) String() string {
	text := cmp.Or(c.Message, "fatal error")
	if c.Kind == CrashPanic {
		text = "panic: " + c.Message
	}
	if c.Stack != "" {
		text += "\n\n" + c.Stack
	}
	return text
}

// noThread is how runtime/cgo begins what it says when it gets no thread. It aborts then.
const noThread = "pthread_create failed: "

// NoPoll is how the runtime begins what it says when the descriptors are gone with which it waits for all others: user code has closed them.
const NoPoll = "runtime: netpoll"

// memoryFunctions are those of the runtime that give up when the system refuses memory.
var memoryFunctions = []string{
	"runtime.sysMapOS", "runtime.sysUsedOS", "runtime.(*mheap).sysAlloc", "runtime.persistentalloc1", "runtime.(*mcache).refill",
	"runtime.(*mcache).allocLarge", "runtime.getempty", "runtime.recordspan", "runtime.newArenaMayUnlock", "runtime.(*pageAlloc).grow",
	"runtime.stkbucket", "runtime.stackpoolalloc", "runtime.stackalloc", "runtime.rawruneslice",
}

// parseCrash reads what the runtime wrote to its crash output; nil if that is no crash. The runtime prints panics there
// whole; of fatal errors it prints the stacks there, and the text to standard error alone. fatal is that text, as far as
// it is known; since anybody could have printed it, the stacks decide first.
func parseCrash(text, fatal string) *Crash {
	text = wire.Clip(text, maxReport)
	blocks := strings.Split(strings.TrimLeft(text, "\n"), "\n\n")
	for i, block := range blocks { // something else may have been written before
		if at := lineWith(block, "panic: "); at >= 0 {
			value, _, _ := strings.Cut(block[at+len("panic: "):], "\n[signal ")
			value = strings.TrimSuffix(value, " [recovered, repanicked]")
			value = strings.ReplaceAll(value, "\n\t", "\n") // the runtime indents the lines of a value
			return &Crash{Kind: CrashPanic, Message: strings.TrimRight(value, "\n"), Stack: goroutine(blocks[i+1:]), Text: text}
		}
		if at := lineWith(block, "SIG"); at >= 0 && strings.Contains(block[at:], "\nPC=") {
			message, _, _ := strings.Cut(block[at:], "\n")
			crash := &Crash{Kind: CrashSignal, Message: message, Text: text}
			if strings.HasPrefix(message, "SIGABRT") && strings.HasPrefix(fatal, noThread) {
				crash.Kind, crash.Message = CrashNoThread, fatal
			}
			if i+1 < len(blocks) { // what follows goroutine 0 has nothing to do with the signal
				crash.Stack = goroutine(blocks[i+1 : i+2])
			}
			return crash
		}
		if isStack(block) {
			kind, message := fatalKind(block, fatal)
			return &Crash{Kind: kind, Message: message, Stack: goroutine(blocks[i:]), Text: text}
		}
	}
	return nil
}

// lineWith returns where a line of block begins with prefix; -1 if none does.
func lineWith(block, prefix string) int {
	if strings.HasPrefix(block, prefix) {
		return 0
	}
	if at := strings.Index(block, "\n"+prefix); at >= 0 {
		return at + 1
	}
	return -1
}

// isStack tells whether the runtime's stacks begin with block.
func isStack(block string) bool {
	return strings.HasPrefix(block, "runtime stack:\n") || strings.HasPrefix(block, "goroutine ") && strings.Contains(block, "]:\n")
}

// goroutine returns the first stack of a goroutine; the runtime's own goroutine 0 is none.
func goroutine(blocks []string) string {
	for _, block := range blocks {
		if isStack(block) && strings.HasPrefix(block, "goroutine ") && !strings.HasPrefix(block, "goroutine 0 ") {
			return strings.TrimRight(block, "\n")
		}
	}
	return ""
}

// fatalKind tells fatal errors apart by how the first stack begins, and by the text where that says nothing.
func fatalKind(stack, fatal string) (kind CrashKind, message string) {
	header, _, _ := strings.Cut(stack, "\n")
	frames := functions(stack)
	thrown := len(frames) > 1 && frames[0] == "runtime.throw"
	switch {
	case thrown && frames[1] == "runtime.newstack":
		return CrashStackOverflow, "stack overflow"
	case thrown && frames[1] == "runtime.newosproc":
		return CrashNoThread, "newosproc"
	case thrown && slices.Contains(memoryFunctions, frames[1]):
		return CrashOutOfMemory, "out of memory"
	case strings.Contains(fatal, "out of memory") || strings.Contains(fatal, "cannot allocate memory"):
		return CrashOutOfMemory, fatal
	case fatal == "" && len(frames) > 0 && frames[0] == "internal/runtime/maps.fatal":
		return CrashFatal, "concurrent use of a map"
	case fatal == "" && strings.HasPrefix(header, "goroutine ") && !strings.Contains(header, "running"):
		return CrashFatal, "all goroutines are asleep - deadlock!"
	}
	return CrashFatal, fatal
}

// functions returns the names of a stack's functions, the innermost first.
func functions(stack string) []string {
	var names []string
	for _, line := range strings.Split(stack, "\n")[1:] {
		if line == "" || strings.HasPrefix(line, "\t") {
			continue
		}
		// The parameters come last; a receiver has parentheses, too.
		if at := strings.LastIndex(line, "("); at > 0 {
			names = append(names, line[:at])
		}
	}
	return names
}

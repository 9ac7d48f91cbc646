package launch

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/internal/wire"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// readCrash reads a crash output of Go 1.27; its first line is the text of the fatal error on standard error.
func readCrash(t testing.TB, name string) (text, fatal string) {
	content, err := os.ReadFile(filepath.Join("testdata", "crash", name+".txt"))
	require.NoError(t, err)
	first, text, _ := strings.Cut(string(content), "\n")
	return text, strings.TrimPrefix(strings.TrimPrefix(first, "stderr:"), " ")
}

func TestParseCrash(t *testing.T) {
	const noMap = "panic while printing panic value: in Error"
	for _, c := range []struct {
		name    string
		kind    CrashKind
		message string
		blind   string // the message when standard error was lost
		stack   string // what the stack must hold
	}{
		{"panic", CrashPanic, "boom", "boom", "main.main.func1()\n\t/src/main.go:26"},
		{"multiline", CrashPanic, "boom\nsecond\npanic: third", "boom\nsecond\npanic: third", "/src/main.go:27"},
		{"error", CrashPanic, "wrapped: x", "wrapped: x", "/src/main.go:28"},
		{"struct", CrashPanic, "(main.T) 0x4a9fd8", "(main.T) 0x4a9fd8", "/src/main.go:30"},
		{"nilpanic", CrashPanic, "runtime error: panic called with nil argument", "runtime error: panic called with nil argument", "/src/main.go:33"},
		{"nested", CrashPanic, "first\npanic: second", "first\npanic: second", "/src/main.go:34"},
		{"repanic", CrashPanic, "first", "first", "/src/main.go:35"},
		{"wrapped", CrashPanic, "first [recovered]\npanic: again: first", "first [recovered]\npanic: again: first", "/src/main.go:36"},
		{"goexit", CrashPanic, "in goexit", "in goexit", "runtime.Goexit()"},
		{"nilptr", CrashPanic, "runtime error: invalid memory address or nil pointer dereference", "runtime error: invalid memory address or nil pointer dereference", "/src/main.go:38"},
		{"index", CrashPanic, "runtime error: index out of range [3] with length 0", "runtime error: index out of range [3] with length 0", "/src/main.go:39"},
		{"deadlock", CrashFatal, "all goroutines are asleep - deadlock!", "all goroutines are asleep - deadlock!", "goroutine 1 [select (no cases)]:\nmain.main()"},
		{"overflow", CrashStackOverflow, "stack overflow", "stack overflow", "main.recurse("},
		{"oom", CrashOutOfMemory, "out of memory", "out of memory", "main.main()\n\t/src/main.go:48"},
		{"oomsmall", CrashOutOfMemory, "out of memory", "out of memory", "main.main()"},
		{"maps", CrashFatal, "concurrent map writes", "concurrent use of a map", "/src/main.go:58"},
		{"unlock", CrashFatal, "sync: unlock of unlocked mutex", "", "/src/main.go:60"},
		{"errpanics", CrashFatal, noMap, "", "main.(*E).Error("},
		{"fault", CrashFatal, "fault", "", "/src/main.go:66"},
		{"threads", CrashFatal, "thread exhaustion", "", "goroutine "},
		{"nothread", CrashNoThread, "newosproc", "newosproc", "goroutine "},
		{"segv", CrashSignal, "SIGSEGV: segmentation violation", "SIGSEGV: segmentation violation", "syscall.Kill("},
		{"cgo", CrashSignal, "SIGSEGV: segmentation violation", "SIGSEGV: segmentation violation", "main._Cfunc_crash()"},
		{"quit", CrashSignal, "SIGQUIT: quit", "SIGQUIT: quit", "syscall.Kill("},
		{"abrt", CrashSignal, "SIGABRT: abort", "SIGABRT: abort", ""}, // sent while goroutine 0 ran
	} {
		t.Run(c.name, func(t *testing.T) {
			text, fatal := readCrash(t, c.name)
			crash := parseCrash("1|1|unix|sandbox|grpc|\n"+text, fatal)
			require.NotNil(t, crash)
			assert.Equal(t, c.kind, crash.Kind)
			assert.Equal(t, c.message, crash.Message)
			assert.Contains(t, crash.Stack, c.stack)
			assert.Equal(t, c.stack == "", crash.Stack == "", crash.Stack)
			assert.NotContains(t, crash.Stack, "\n\n", "one goroutine")
			assert.True(t, crash.Stack == "" || strings.HasPrefix(crash.Stack, "goroutine "), crash.Stack)
			assert.Contains(t, crash.Text, text)

			blind := parseCrash(text, "")
			require.NotNil(t, blind, "without standard error")
			assert.Equal(t, c.kind, blind.Kind)
			assert.Equal(t, c.blind, blind.Message)
		})
	}
}

// What runtime/cgo has to say before it aborts is on standard error alone.
func TestParseCrashWithoutAThreadForC(t *testing.T) {
	text, fatal := readCrash(t, "nothreadcgo")
	crash := parseCrash(text, fatal)
	require.NotNil(t, crash)
	assert.Equal(t, CrashNoThread, crash.Kind)
	assert.Equal(t, "pthread_create failed: Resource temporarily unavailable", crash.Message)
	crash = parseCrash(text, "")
	require.NotNil(t, crash)
	assert.Equal(t, CrashSignal, crash.Kind)
	assert.Equal(t, "SIGABRT: abort", crash.Message)
}

func TestParseCrashOfNoCrash(t *testing.T) {
	for _, text := range []string{
		"", "1|1|unix|sandbox|grpc|\n", "1|1|unix|sandbox|grpc|\n" + wire.StreamEnded, "a panic: no\n", "SIGNIFICANT\n", "goroutine\n", "goroutine 1\n",
	} {
		assert.Nil(t, parseCrash(text, "out of memory"), text)
	}
}

func FuzzParseCrash(f *testing.F) {
	samples, err := filepath.Glob("testdata/crash/*.txt")
	require.NoError(f, err)
	require.NotEmpty(f, samples)
	for _, sample := range samples {
		text, fatal := readCrash(f, strings.TrimSuffix(filepath.Base(sample), ".txt"))
		f.Add(text, fatal)
	}
	f.Fuzz(func(t *testing.T, text, fatal string) {
		crash := parseCrash(text, fatal)
		if crash == nil {
			return
		}
		assert.LessOrEqual(t, len(crash.Text), 3*maxReport+100)
		assert.LessOrEqual(t, len(crash.Message), max(len(crash.Text), len(fatal), 100))
		assert.LessOrEqual(t, len(crash.Stack), len(crash.Text))
		for _, part := range []string{crash.Text, crash.Stack} {
			assert.True(t, utf8.ValidString(part))
		}
		_ = crash.String()
	})
}

func TestReport(t *testing.T) {
	from, to := io.Pipe()
	r := readReport(from, maxReport)
	defer r.close()
	write := func(text string) {
		t.Helper()
		_, err := io.WriteString(to, text)
		require.NoError(t, err)
	}
	write(goodLine)
	line, err := io.ReadAll(r)
	require.NoError(t, err)
	assert.Equal(t, "1|1|unix|sandbox|grpc", string(line), "go-plugin sees the first line up to the protocol, and the end")
	write("panic: boom\n\ngoroutine 7 [running]:\nmain.f()\n\t/src/main.go:1 +0x1\n")
	require.NoError(t, to.Close())
	assert.Nil(t, r.crash(&driver.Exit{Code: 3}, ""), "nothing that exits with 3 has crashed")
	for _, exit := range []*driver.Exit{nil, {Code: 2}, {Code: -1, Signal: 6}} {
		crash := r.crash(exit, "")
		require.NotNil(t, crash)
		assert.Equal(t, "boom", crash.Message)
	}
	assert.Empty(t, r.decided())
}

func TestAReportThatUserCodeClosed(t *testing.T) {
	r := readReport(io.NopCloser(strings.NewReader(goodLine)), maxReport)
	defer r.close()
	exit := &driver.Exit{Code: 2}
	assert.Nil(t, r.crash(exit, "forged"))
	crash := r.crash(exit, "runtime: netpoll failed")
	require.NotNil(t, crash)
	assert.Equal(t, &Crash{Kind: CrashFatal, Message: "runtime: netpoll failed", Text: "fatal error: runtime: netpoll failed"}, crash)
}

func TestAReportWithoutEndIsCutOff(t *testing.T) {
	for _, first := range []string{goodLine, ""} {
		from, to := io.Pipe()
		r := readReport(from, maxReport)
		_, _ = io.WriteString(to, first)
		written := make(chan error, 1)
		go func() {
			for {
				if _, err := io.WriteString(to, strings.Repeat("\xff", 1000)); err != nil {
					written <- err
					return
				}
			}
		}()
		select {
		case err := <-written:
			require.ErrorIs(t, err, io.ErrClosedPipe, "the writer is told to stop")
		case <-time.After(10 * time.Second):
			t.Fatal("a worker can write without end")
		}
		assert.Len(t, r.text(), maxReport)
		assert.Nil(t, r.crash(nil, ""))
		r.close()
	}
}

func TestClosingAReportEndsItsLine(t *testing.T) {
	from, _ := io.Pipe()
	r := readReport(from, maxReport)
	require.NoError(t, r.Close())
	line, err := io.ReadAll(r)
	require.NoError(t, err)
	assert.Empty(t, line)
	r.close()
	r.close()
}

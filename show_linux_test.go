package sbx_test

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/sbxtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// watchedTerminal is a pseudo-terminal and all that was printed on it.
type watchedTerminal struct {
	*os.File
	master *os.File
	read   sync.WaitGroup
	text   strings.Builder
}

func watchTerminal(t *testing.T, columns int) *watchedTerminal {
	t.Setenv("TERM", "xterm")
	master, slave, err := pty.Open()
	require.NoError(t, err)
	term := &watchedTerminal{File: slave, master: master}
	require.NoError(t, pty.Setsize(slave, &pty.Winsize{Rows: 24, Cols: uint16(columns)}))
	term.read.Go(func() { _, _ = io.Copy(&term.text, master) })
	return term
}

// end closes the terminal, and returns all that was printed.
func (term *watchedTerminal) end(t *testing.T) string {
	require.NoError(t, term.Close())
	term.read.Wait()
	require.NoError(t, term.master.Close())
	return term.text.String()
}

var control = regexp.MustCompile(`\x1b\[(\d*)([AJ])|\r?\n|[^\x1b\r\n]+`)

// render returns the lines that a terminal shows after it got text. It knows what bars need: cursor up, and erase below.
func render(t *testing.T, text string) (lines []string) {
	assert.Empty(t, control.ReplaceAllString(text, ""), "controls that are not expected")
	lines = []string{""}
	row := 0
	for _, part := range control.FindAllStringSubmatch(text, -1) {
		switch {
		case part[2] == "A":
			up, err := strconv.Atoi(part[1])
			require.NoError(t, err)
			row -= up
			require.GreaterOrEqual(t, row, 0)
		case part[2] == "J":
			lines = lines[:row+1]
			lines[row] = ""
		case strings.HasSuffix(part[0], "\n"):
			if row++; row == len(lines) {
				lines = append(lines, "")
			}
		default:
			lines[row] += part[0]
		}
	}
	return lines
}

// waitForBar waits until there is a bar, above which lines are to stay whole.
func waitForBar(t *testing.T) {
	require.Eventually(t, func() bool { return strings.Contains(stacks(), "mpb/v8.(*Progress).serve(") }, long, time.Millisecond)
}

// What the program prints on the screen stays whole, in its order, above the bar.
func TestBarAndLogsOnATerminal(t *testing.T) {
	term := watchTerminal(t, 100)
	screen := sbx.NewScreen(term.File)
	session := sbxtest.Open(t)
	var want []string
	for result := range session.Function(Slowly).MapUnordered(t.Context(), slices.Values(make([]int, 100)), sbx.ShowProgress(screen), sbx.Total(100)) {
		require.NoError(t, result.Err)
		if len(want) == 0 {
			waitForBar(t)
		}
		line := fmt.Sprintf("result %d", len(want))
		_, err := io.WriteString(screen, line[:4])
		require.NoError(t, err)
		_, err = io.WriteString(screen, line[4:]+"\n")
		require.NoError(t, err)
		want = append(want, line)
	}
	_, err := io.WriteString(screen, "the end")
	require.NoError(t, err)
	text := term.end(t)
	lines := render(t, text)
	require.Len(t, lines, 103, "%q", lines)
	assert.Equal(t, want, lines[:100])
	assert.Regexp(t, `^sbx_test\.Slowly: 100 of 100 done \[=+>?\] \d+(\.\d)?/s$`, lines[100])
	assert.Regexp(t, `^  0 running, sandboxes: \d+; \?\[2Jnote$`, lines[101])
	assert.Equal(t, "the end", lines[102])
	assert.Greater(t, strings.Count(text, "\x1b["), 2, "it was drawn several times")
}

// A line without an end is not kept for ever.
func TestLongLinesAboveABar(t *testing.T) {
	term := watchTerminal(t, 100)
	screen := sbx.NewScreen(term.File)
	session := sbxtest.Open(t)
	written := false
	for _, err := range session.Function(Slowly).Map(t.Context(), slices.Values(make([]int, 50)), sbx.ShowProgress(screen)) {
		require.NoError(t, err)
		if written {
			continue
		}
		written = true
		waitForBar(t)
		for _, text := range []string{"first\nsecond", strings.Repeat("a", 64<<10-6), "b", "c\n", "third\n" + strings.Repeat("d", 100<<10), "e\n"} {
			n, err := io.WriteString(screen, text)
			require.NoError(t, err)
			assert.Len(t, text, n)
		}
	}
	want := []string{"first", "second" + strings.Repeat("a", 64<<10-6) + "b", "c", "third", strings.Repeat("d", 100<<10), "e"}
	lines := render(t, term.end(t))
	require.Greater(t, len(lines), len(want))
	for i, line := range want {
		assert.Equal(t, line, lines[i])
	}
}

func TestBarsFitTheTerminal(t *testing.T) {
	for _, columns := range []int{5, 20, 40, 300} {
		term := watchTerminal(t, columns)
		session := sbxtest.Open(t)
		_, err := session.Function(Slowly).MapSlice(t.Context(), make([]int, 50), sbx.ShowProgress(term.File))
		require.NoError(t, err)
		for _, line := range render(t, term.end(t)) {
			assert.LessOrEqual(t, len([]rune(line)), columns, "%q", line)
		}
	}
}

// Two runs at a time share a screen.
func TestTwoBarsOnAScreen(t *testing.T) {
	term := watchTerminal(t, 80)
	screen := sbx.NewScreen(term.File)
	session := sbxtest.Open(t)
	var runs sync.WaitGroup
	for _, inputs := range []int{30, 60} {
		runs.Go(func() {
			_, err := session.Function(Slowly).MapSlice(t.Context(), make([]int, inputs), sbx.ShowProgress(screen))
			assert.NoError(t, err)
		})
	}
	runs.Wait()
	shown := strings.Join(render(t, term.end(t)), "\n")
	assert.Equal(t, 1, strings.Count(shown, "30 of 30 done"), shown)
	assert.Equal(t, 1, strings.Count(shown, "60 of 60 done"), shown)
}

func TestTerminalsWithoutABar(t *testing.T) {
	for name, columns := range map[string]int{"dumb": 80, "of no size": 0} {
		term := watchTerminal(t, columns)
		if name == "dumb" {
			t.Setenv("TERM", "dumb")
		}
		session := sbxtest.Open(t)
		_, err := session.Function(Slowly).MapSlice(t.Context(), make([]int, 10), sbx.ShowProgress(term.File))
		require.NoError(t, err)
		text := term.end(t)
		assert.NotContains(t, text, "\x1b", name)
		assert.Contains(t, text, "10 of 10 done", name)
	}
}

// A terminal that is stopped, as Ctrl-S does it, holds up the end of each run for a second, and nothing else, be it in the middle of a bar or of
// what the program prints.
func TestATerminalThatIsStopped(t *testing.T) {
	for _, print := range []bool{false, true} {
		t.Run(fmt.Sprintf("printing=%v", print), func(t *testing.T) {
			term := watchTerminal(t, 80)
			screen := sbx.NewScreen(term.File)
			session := sbxtest.Open(t)
			flow := func(to int) { require.NoError(t, unix.IoctlSetInt(int(term.Fd()), unix.TCXONC, to)) }
			flow(unix.TCOOFF)
			goOn := sync.OnceFunc(func() { flow(unix.TCOON) })
			defer goOn()
			var printed, runs sync.WaitGroup
			if print {
				printed.Go(func() {
					_, err := io.WriteString(screen, "a line\n")
					assert.NoError(t, err)
				})
				require.Eventually(t, func() bool { return strings.Contains(stacks(), "sbx.(*Screen).Write(") }, long, time.Millisecond)
			}
			took := make(chan time.Duration)
			runs.Go(func() {
				for range 3 {
					begin := time.Now()
					_, err := session.Function(Slowly).MapSlice(t.Context(), make([]int, 30), sbx.ShowProgress(screen))
					assert.NoError(t, err)
					took <- time.Since(begin)
				}
			})
			for range 3 {
				select {
				case d := <-took:
					assert.GreaterOrEqual(t, d, time.Second)
				case <-time.After(long):
					t.Error("a run does not end")
					goOn()
					<-took
				}
			}
			runs.Wait()
			goOn()
			printed.Wait()
			require.Eventually(t, func() bool { return !strings.Contains(stacks(), "sbx.(*bar)") }, long, 10*time.Millisecond)
			shown := strings.Join(render(t, term.end(t)), "\n")
			assert.Equal(t, 3, strings.Count(shown, "30 of 30 done"), shown)
		})
	}
}

// A terminal that goes away ends nothing but what is shown.
func TestATerminalThatGoesAway(t *testing.T) {
	term := watchTerminal(t, 80)
	screen := sbx.NewScreen(term.File)
	session := sbxtest.Open(t)
	done := 0
	for _, err := range session.Function(Slowly).Map(t.Context(), slices.Values(make([]int, 200)), sbx.ShowProgress(screen)) {
		require.NoError(t, err)
		if done++; done == 50 {
			require.NoError(t, term.master.Close())
		}
	}
	assert.Equal(t, 200, done)
	_, err := io.WriteString(screen, "more\n")
	require.Error(t, err)
	require.NoError(t, term.Close())
	term.read.Wait()
}

package sbx_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/driver/inprocess"
	"github.com/sandboxfn/sbx/sbxtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Where there is no terminal there is a line every ten seconds, and one at the end.
func TestShowProgressInLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		session, err := sbx.Open(t.Context(), sbx.Driver(inprocess.New(nil)), sbx.MaxSandboxes(2))
		require.NoError(t, err)
		slow := session.Function(Seconds)
		var shown strings.Builder
		_, err = slow.MapSlice(t.Context(), []int{-4, 4, 4, 4, 4, 4, 4, 4, 4, 4}, sbx.ShowProgress(&shown))
		require.Error(t, err)
		lines := slices.Collect(strings.Lines(shown.String()))
		require.Len(t, lines, 3, "20 seconds, and the end: %q", lines)
		assert.Regexp(t, `^sbx_test\.Seconds: 4 of 10 done, 40%, 0\.4/s, 15s left, 1 failed, 2 running, sandboxes: 2; 1 of 2: slow\n$`, lines[0])
		assert.Regexp(t, `^sbx_test\.Seconds: (8|9|10) of 10 done`, lines[1])
		assert.Regexp(t, `^sbx_test\.Seconds: 10 of 10 done, 0\.5/s, 1 failed, 0 running, sandboxes: 2; 1 of 2: slow\n$`, lines[2])

		// Of how many is not known of a sequence, unless it is told.
		for _, total := range [][]sbx.MapOption{nil, {sbx.Total(3)}} {
			shown.Reset()
			for _, err := range slow.Map(t.Context(), slices.Values([]int{1, 1, 1}), append(total, sbx.ShowProgress(&shown))...) {
				require.NoError(t, err)
			}
			if total == nil {
				assert.Regexp(t, `^sbx_test\.Seconds: 3 done, 1\.5/s, 0 running`, shown.String())
			} else {
				assert.Regexp(t, `^sbx_test\.Seconds: 3 of 3 done, 1\.5/s, 0 running`, shown.String())
			}
		}
		require.NoError(t, session.Close())
	})
}

func TestShowProgressTellsOfTheJournal(t *testing.T) {
	session := sbxtest.Open(t)
	path := filepath.Join(t.TempDir(), "journal")
	var shown strings.Builder
	for _, inputs := range [][]int{{1, 2, 3}, {1, 2, 3, 4}} {
		shown.Reset()
		_, err := session.Function(Double, sbx.Version("1")).MapSlice(t.Context(), inputs, sbx.Journal(path), sbx.ShowProgress(&shown))
		require.NoError(t, err)
	}
	assert.Contains(t, shown.String(), "4 of 4 done")
	assert.Contains(t, shown.String(), ", 3 from the journal")
}

// However a run ends, what shows it ends with it; inputs that end with it are not done.
func TestShowProgressEndsWithTheRun(t *testing.T) {
	endless := func(yield func(int) bool) {
		for yield(3600) {
		}
	}
	for name, end := range map[string]func(*sbx.Session, context.CancelFunc, iter.Seq2[int, error]){
		"break": func(_ *sbx.Session, _ context.CancelFunc, results iter.Seq2[int, error]) {
			for _, err := range results {
				require.NoError(t, err)
				break
			}
		},
		"panic": func(_ *sbx.Session, _ context.CancelFunc, results iter.Seq2[int, error]) {
			assert.Panics(t, func() {
				for _, err := range results {
					require.NoError(t, err)
					panic("in the loop")
				}
			})
		},
		"context": func(_ *sbx.Session, cancel context.CancelFunc, results iter.Seq2[int, error]) {
			for _, err := range results {
				if err != nil {
					require.ErrorIs(t, err, context.Canceled)
				}
				cancel()
			}
		},
		"Close": func(session *sbx.Session, _ context.CancelFunc, results iter.Seq2[int, error]) {
			for _, err := range results {
				if err != nil {
					require.ErrorIs(t, err, sbx.ErrClosed)
				}
				go func() { _ = session.Close() }()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // which waits for all goroutines
				session, err := sbx.Open(t.Context(), sbx.Driver(inprocess.New(nil)), sbx.MaxSandboxes(2))
				require.NoError(t, err)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var shown strings.Builder
				inputs := func(yield func(int) bool) { _ = yield(1); endless(yield) }
				end(session, cancel, session.Function(Seconds).Map(ctx, inputs, sbx.ShowProgress(&shown)))
				assert.Equal(t, 1, strings.Count(shown.String(), "\n"), "%q", shown.String())
				assert.Contains(t, shown.String(), "Seconds: 1 done")
				assert.NotContains(t, shown.String(), "failed")
				require.NoError(t, session.Close())
			})
		})
	}
}

// stopped is a writer that takes nothing until it is let.
type stopped chan struct{}

func (b stopped) Write(p []byte) (int, error) {
	<-b
	return len(p), errors.New("taken too late")
}

func TestAWriterThatBlocksHoldsARunForASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		session, err := sbx.Open(t.Context(), sbx.Driver(inprocess.New(nil)))
		require.NoError(t, err)
		w := make(stopped)
		begin := time.Now()
		_, err = session.Function(Double).MapSlice(t.Context(), []int{1, 2, 3}, sbx.ShowProgress(w))
		require.NoError(t, err)
		assert.Equal(t, time.Second, time.Since(begin))
		close(w)
		require.NoError(t, session.Close())
	})
}

func TestOptionsOfWhatIsShown(t *testing.T) {
	session := sbxtest.Open(t)
	for _, opt := range []sbx.MapOption{sbx.ShowProgress(nil), sbx.ShowProgress((*sbx.Screen)(nil)), sbx.ShowProgress(&sbx.Screen{}), sbx.ShowProgress(sbx.NewScreen(nil)), sbx.Total(0), sbx.Total(-1)} {
		_, err := session.Function(Double).MapSlice(t.Context(), []int{1}, opt)
		var misuse *sbx.OptionError
		require.ErrorAs(t, err, &misuse)
	}
	_, err := sbx.Open(t.Context(), sbx.Watchdog(0))
	var misuse *sbx.OptionError
	require.ErrorAs(t, err, &misuse)
}

func BenchmarkMapShown(b *testing.B) {
	for name, opts := range map[string][]sbx.MapOption{"silent": nil, "lines": {sbx.ShowProgress(io.Discard)}} {
		b.Run(name, func(b *testing.B) {
			session, err := sbx.Open(b.Context())
			require.NoError(b, err)
			defer func() { _ = session.Close() }()
			begin := time.Now()
			inputs := func(yield func(int) bool) {
				for i := range b.N {
					if !yield(i) {
						return
					}
				}
			}
			for _, err := range session.Function(Double).Map(b.Context(), inputs, opts...) {
				require.NoError(b, err)
			}
			b.ReportMetric(float64(b.N)/time.Since(begin).Seconds(), "inputs/s")
		})
	}
}

func ExampleShowProgress() {
	ctx := context.Background()
	session, err := sbx.Open(ctx, sbx.Driver(inprocess.New(nil)))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = session.Close() }()
	var log strings.Builder // os.Stderr, most often
	_, err = session.Function(Double).MapSlice(ctx, []int{1, 2, 3}, sbx.ShowProgress(&log))
	shown, _, _ := strings.Cut(log.String(), ",")
	fmt.Println(shown, err)
	// Output: sbx_test.Double: 3 of 3 done <nil>
}

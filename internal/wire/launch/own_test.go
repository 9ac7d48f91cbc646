package launch

import (
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The session's own messages come in their order, whatever the level of what functions log.
func TestOwnMessages(t *testing.T) {
	var out strings.Builder
	handler := slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})
	logs := NewLogs(handler, slog.LevelError)
	log := logs.Own()
	log.Info("one", "a", 1)
	log.With("b", 2).WithGroup("g").Warn("two", "c", 3)
	log.Debug("none")
	logs.Close()
	log.Info("late")
	assert.Equal(t, "level=INFO msg=one a=1\nlevel=WARN msg=two b=2 g.c=3\n", out.String())
}

// Who logs them does not wait for the handler, and what is too much is counted.
func TestOwnMessagesThatNobodyTakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got kept
		release := make(chan struct{})
		logs := NewLogs(handlerFunc(func(r slog.Record) {
			<-release
			got.take(r)
		}), nil)
		log := logs.Own()
		long := strings.Repeat("x", 1<<20)
		for range 10 {
			log.Info("x", "text", long)
		}
		close(release)
		synctest.Wait()
		logs.Close()
		require.NotEmpty(t, got.text)
		assert.Less(t, len(got.text), 7)
		last := got.text[len(got.text)-1]
		assert.Contains(t, last, "records were dropped here")
		assert.NotContains(t, last, "sandbox=")
	})
}

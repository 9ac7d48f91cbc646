package launch

import (
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sandboxfn/sbx/internal/wire"
	"github.com/sandboxfn/sbx/internal/wire/wirepb"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A worker may say what it likes of its progress: what is too much is cut, and what is of no call is dropped.
func TestProgressThatIsNotTrusted(t *testing.T) {
	tell := func(call uint64, done, total int64, note string) *wirepb.Message {
		return &wirepb.Message{Kind: &wirepb.Message_Progress{Progress: &wirepb.Progress{Call: call, Done: done, Total: total, Note: note}}}
	}
	f := &fake{line: goodLine, script: welcomed(sends(frame(2,
		tell(99, 1, 1, "of no call"), tell(0, 1, 1, ""), tell(1, 5, 6, "first"), tell(1, -1, -1<<63, "\x1b]0;title\a"+strings.Repeat("x", 1<<20)),
		result(1, 1), tell(1, 7, 7, "too late"),
	)))}
	w, err := start(t, f)
	require.NoError(t, err)
	var followed atomic.Pointer[Progress]
	call := w.Go(&wirepb.Call{Attempt: 1}, nil)
	call.Follow(&followed)
	call.Result()
	p := call.Progress()
	require.NotNil(t, p)
	assert.Same(t, p, followed.Load())
	assert.Zero(t, p.Done)
	assert.Zero(t, p.Total)
	assert.Len(t, p.Note, wire.MaxNote)
	assert.True(t, strings.HasPrefix(p.Note, "?]0;title?xxx"), "%.20q", p.Note)
	assert.Nil(t, w.Go(&wirepb.Call{Attempt: 1}, nil).Progress())
}

package sbx_test

import (
	"bytes"
	"context"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Copies of long files share memory with the worker; what passes there is never another copy's, also after copies that were cut short.
func TestCopiesAtTheSameTime(t *testing.T) {
	const copies, rounds, longest = 6, 12, 5 << 20
	sb := openLocal(t).Sandbox()
	require.NoError(t, sb.Start(t.Context()))
	dir := t.TempDir()
	var whole, cut sync.WaitGroup
	for i := range copies {
		seed := mathrand.Uint64()
		random := mathrand.New(mathrand.NewPCG(seed, 0))
		work := func(within func() (context.Context, context.CancelFunc), must bool, wait *sync.WaitGroup) {
			wait.Go(func() {
				from, to, in := filepath.Join(dir, fmt.Sprint("from", i, must)), filepath.Join(dir, fmt.Sprint("to", i, must)), fmt.Sprint("in", i, must)
				for range rounds {
					content := bytes.Repeat([]byte{byte(random.IntN(255) + 1)}, random.IntN(longest))
					if !assert.NoError(t, os.WriteFile(from, content, 0o600)) {
						return
					}
					ctx, cancel := within()
					err := sb.CopyTo(ctx, from, in)
					if err == nil {
						err = sb.CopyFrom(ctx, in, to)
					}
					cancel()
					if err != nil {
						assert.False(t, must, "seed %d: %v", seed, err)
						assert.ErrorIs(t, err, context.DeadlineExceeded)
						continue
					}
					arrived, err := os.ReadFile(to)
					assert.NoError(t, err)
					assert.True(t, bytes.Equal(content, arrived), "seed %d: %d bytes", seed, len(content))
				}
			})
		}
		if i%2 == 0 {
			work(func() (context.Context, context.CancelFunc) { return context.WithCancel(t.Context()) }, true, &whole)
		} else {
			work(func() (context.Context, context.CancelFunc) {
				return context.WithTimeout(t.Context(), time.Duration(random.IntN(20))*time.Millisecond)
			}, false, &cut)
		}
	}
	whole.Wait()
	cut.Wait()
}

//go:build unix

package ledger

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestWindowsAreSharedMemory(t *testing.T) {
	session, worker := mapped(t)
	window := session.Take()
	number, loan := window.Lend()
	assert.NotZero(t, window.loan)
	assert.Len(t, window.Memory, WindowSize)
	copy(window.Memory, "to the worker")
	memory, giveBack := worker.Borrow(number, loan)
	require.Len(t, memory, WindowSize)
	assert.Equal(t, "to the worker", string(memory[:13]))
	copy(memory[WindowSize-4:], "back")
	giveBack()
	assert.Equal(t, "back", string(window.Memory[WindowSize-4:]))
	window.Returned()
	window.Free()
	session.Queue(Slots-1, 7)
	assert.True(t, worker.Claim(Slots-1, 7), "what is beside windows is not in them")
}

func TestAWindowHasOneUser(t *testing.T) {
	session, worker := mapped(t)
	var windows []*Window
	for range Windows {
		windows = append(windows, session.Take())
		windows[len(windows)-1].Memory[0] = byte(len(windows))
	}
	for i, window := range windows {
		assert.EqualValues(t, i+1, window.Memory[0], "each has memory of its own")
	}
	assert.Nil(t, session.Take(), "all are taken")

	number, loan := windows[0].Lend()
	_, wrong := worker.Borrow(number, loan+1)
	assert.Nil(t, wrong, "another loan")
	_, wrong = worker.Borrow(number+1, loan)
	assert.Nil(t, wrong, "a window that was not lent")
	_, wrong = worker.Borrow(Windows, loan)
	assert.Nil(t, wrong, "no window")
	_, wrong = worker.Borrow(-1, loan)
	assert.Nil(t, wrong, "no window")
	_, giveBack := worker.Borrow(number, loan)
	require.NotNil(t, giveBack)
	_, again := worker.Borrow(number, loan)
	assert.Nil(t, again, "a loan is for one use")

	windows[0].Free()
	assert.Nil(t, session.Take(), "the worker has it")
	giveBack()
	window := session.Take()
	require.NotNil(t, window, "the worker has given it back")
	number, loan = window.Lend()
	window.Free()
	_, late := worker.Borrow(number, loan)
	assert.Nil(t, late, "it was taken back before the worker had it")
	assert.NotNil(t, session.Take())
}

func TestMemoryStaysUntilNobodyUsesIt(t *testing.T) {
	file, err := New()
	require.NoError(t, err)
	defer file.Close()
	session, err := Map(file)
	require.NoError(t, err)
	begin := fmt.Sprintf("%x-", uintptr(unsafe.Pointer(unsafe.SliceData(session.memory))))
	isMapped := func() bool {
		maps, err := os.ReadFile("/proc/self/maps")
		if err != nil {
			t.Skip(err)
		}
		return strings.Contains(string(maps), begin)
	}
	first, second := session.Take(), session.Take()
	session.Close()
	assert.Nil(t, session.Take(), "closed")
	first.Free()
	second.Memory[0] = 1 // which would end the test's process if it were unmapped
	assert.True(t, isMapped())
	second.Free()
	assert.False(t, isMapped(), "the last user is gone")
	assert.Nil(t, (*Ledger)(nil).Take())
	memory, _ := (*Ledger)(nil).Borrow(0, 1)
	assert.Nil(t, memory)
}

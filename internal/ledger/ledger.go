// Package ledger is how a session learns, after a worker's end, which calls had begun: the worker notes the highest id of
// a call that begins in eight bytes of memory that both share, just before user code runs. The memory outlives the
// process, whatever ended it. Drivers make the file, package worker maps it, package launch reads it.
//
// Calls begin in any order once several run at a time; the highest id stands for all below it, which is wrong on the
// safe side only.
//
// A store to shared memory costs nothing that can be measured beside a call. The alternatives cost a system call for
// each call (a pipe that the session drains) or a message that must arrive before the call may begin (grants).
package ledger

import (
	"encoding/binary"
	"io"
	"sync/atomic"
	"unsafe"
)

// Size is the length of the file in bytes.
const Size = 8

// Ledger is the worker's side. A nil Ledger notes nothing.
type Ledger struct{ highest *atomic.Uint64 }

// Begin notes that the call of that id begins. It may be called by several goroutines at the same time.
func (l *Ledger) Begin(id uint64) {
	if l == nil {
		return
	}
	for {
		highest := l.highest.Load()
		if id <= highest || l.highest.CompareAndSwap(highest, id) {
			return
		}
	}
}

// Read returns the highest id in the file. It is final once the worker has ended.
func Read(file io.ReaderAt) (uint64, error) {
	var highest [Size]byte
	if _, err := file.ReadAt(highest[:], 0); err != nil {
		return 0, err
	}
	return binary.NativeEndian.Uint64(highest[:]), nil
}

// over returns the ledger in memory, which is at least Size bytes long and mapped at a page's begin.
func over(memory []byte) *Ledger {
	return &Ledger{(*atomic.Uint64)(unsafe.Pointer(unsafe.SliceData(memory)))}
}

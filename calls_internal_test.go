package sbx

import (
	"testing"
	"time"
)

// What each call pays so that Session.Calls can tell of it.
func BenchmarkCallUnderWay(b *testing.B) {
	c := calls{begin: time.Now()}
	f := &function{}
	other := &request{}
	c.enter(f, other)
	requests := []*request{{}, {}, {}, {}}
	i := 0
	for b.Loop() {
		r := requests[i%len(requests)]
		i++
		c.enter(f, r)
		c.sent(r, nil, nil, nil)
		c.leave(r)
	}
}

package sbx

import "testing"

// What each call pays so that Session.Calls can tell of it.
func BenchmarkCallUnderWay(b *testing.B) {
	var c calls
	f := &function{}
	other := &request{}
	c.enter(f, other)
	for b.Loop() {
		r := &request{}
		c.enter(f, r)
		c.sent(r, nil, nil, nil)
		c.leave(r)
	}
}

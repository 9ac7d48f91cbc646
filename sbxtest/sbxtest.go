// Package sbxtest opens sessions for tests. Its audience is application authors who test code that calls remote
// functions.
//
//	func TestTrain(t *testing.T) {
//		session := sbxtest.Open(t)
//		report, err := session.Function(Train).Call(t.Context(), job)
//		…
//	}
package sbxtest

import (
	"log/slog"
	"testing"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/driver/inprocess"
)

// Open returns a session that is closed when the test ends. A failed Open or Close fails the test.
//
// Without options functions run in the test's own process, through the real encoding and protocol (package
// driver/inprocess): what they print goes where the test prints, and os.Exit ends the test. Give sbx.Driver for any other
// place, such as sbx.Driver(local.New(nil)) for real sandboxes; then what they print goes to the test's log.
func Open(tb testing.TB, opts ...sbx.OpenOption) *sbx.Session {
	tb.Helper()
	defaults := []sbx.OpenOption{
		sbx.Driver(inprocess.New(nil)),
		sbx.Logger(slog.New(slog.NewTextHandler(tb.Output(), nil))),
	}
	session, err := sbx.Open(tb.Context(), append(defaults, opts...)...)
	if err != nil {
		tb.Fatalf("sbxtest: %v", err)
	}
	tb.Cleanup(func() {
		if err := session.Close(); err != nil {
			tb.Errorf("sbxtest: %v", err)
		}
	})
	return session
}

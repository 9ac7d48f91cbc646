package sbx

import (
	"context"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"
)

// signalStopTime bounds the closing of all sessions after a signal.
const signalStopTime = 15 * time.Second

// CloseOnSignal closes sessions when this program gets an interrupt (Ctrl-C) or SIGTERM, all at the same time and within fifteen seconds, and then ends the program as the
// signal would have: deferred functions do not run. A second of these signals ends it at once. What can't be closed is logged by the session's [Logger].
// A main function that returns meanwhile, because its calls and commands have failed, say, ends the program first, with its own exit status.
//
// A signal that the program ignores stays ignored, as nohup and the shell's background jobs want it. Programs that handle these signals themselves should not
// use this, but close their sessions there. It may be called several times, for sessions that come later; stop takes back what one call did, and may be called again. Nothing is
// done about signals unless it is called.
func CloseOnSignal(sessions ...*Session) (stop func()) {
	sessions = slices.Clone(sessions)
	added := &sessions
	closer.Lock()
	defer closer.Unlock()
	if closer.sessions == nil {
		closer.sessions = map[*[]*Session]struct{}{}
	}
	closer.sessions[added] = struct{}{}
	if closer.signals == nil {
		closer.signals = make(chan os.Signal, 2)
		for _, s := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
			if !signal.Ignored(s) {
				signal.Notify(closer.signals, s)
			}
		}
		closer.quit = make(chan struct{})
		go awaitSignals(closer.signals, closer.quit)
	}
	return func() {
		closer.Lock()
		defer closer.Unlock()
		delete(closer.sessions, added)
		if len(closer.sessions) == 0 && closer.signals != nil && !closer.closing {
			signal.Stop(closer.signals)
			close(closer.quit)
			closer.signals = nil
		}
	}
}

// closer is what CloseOnSignal has set up.
var closer struct {
	sync.Mutex
	sessions map[*[]*Session]struct{} // by call
	signals  chan os.Signal           // nil if nothing is set up
	quit     chan struct{}            // closed when signals is given up
	closing  bool                     // a signal came: the program ends
}

// awaitSignals is the goroutine of CloseOnSignal; the last stop ends it.
func awaitSignals(signals <-chan os.Signal, quit <-chan struct{}) {
	select {
	case <-quit:
		select {
		case got := <-signals: // which came before
			endBy(got)
		default:
		}
	case got := <-signals:
		go func() {
			closeAll(got)
			endBy(got)
		}()
		endBy(<-signals)
	}
}

// closeAll closes all sessions, within signalStopTime.
func closeAll(got os.Signal) {
	closer.Lock()
	closer.closing = true
	calls := slices.Collect(maps.Keys(closer.sessions))
	closer.Unlock()
	sessions := map[*Session]struct{}{}
	for _, call := range calls {
		for _, s := range *call {
			if s.opened() {
				sessions[s] = struct{}{}
			}
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), signalStopTime)
	defer cancel()
	var closes sync.WaitGroup
	for s := range sessions {
		closes.Go(func() {
			done := make(chan error, 1)
			go func() { done <- s.Close() }()
			var err error
			select {
			case err = <-done:
			case <-ctx.Done():
				err = contextError(ctx)
			}
			if err != nil {
				s.config.logger.Error("sbx: a session could not be closed when this program was to end", slog.String("session", s.id), slog.Any("signal", got), slog.Any("error", err))
			}
		})
	}
	closed := make(chan struct{})
	go func() {
		closes.Wait()
		close(closed)
	}()
	select {
	case <-closed:
	case <-ctx.Done():
		select { // a moment for the logger, which may block
		case <-closed:
		case <-time.After(time.Second):
		}
	}
}

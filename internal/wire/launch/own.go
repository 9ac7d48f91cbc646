package launch

import (
	"context"
	"log/slog"
)

// Own returns a logger for the messages of the session itself and of its driver. It puts them in the queue, and so never
// waits for the handler. They come whatever the level of what functions log.
func (l *Logs) Own() *slog.Logger {
	return slog.New(own{source: l.source(""), handler: l.handler})
}

// own queues for handler.
type own struct {
	source  *source
	handler slog.Handler
}

// Enabled is asked before a message is made; the handler, which may block, is asked when its turn comes.
func (own) Enabled(context.Context, slog.Level) bool { return true }

func (o own) Handle(_ context.Context, r slog.Record) error {
	size := len(r.Message) + entrySize
	r.Attrs(func(a slog.Attr) bool {
		size += len(a.Key) + len(a.Value.String())
		return true
	})
	l := o.source.logs
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
	case o.source.records+size > maxWaitingRecords: // whatever waits of the sandboxes, which can't suppress these
		o.source.drop(1)
	default:
		o.source.records += size
		o.source.push(entry{source: o.source, handler: o.handler, record: r.Clone(), size: size})
	}
	return nil
}

func (o own) WithAttrs(attrs []slog.Attr) slog.Handler {
	o.handler = o.handler.WithAttrs(attrs)
	return o
}

func (o own) WithGroup(name string) slog.Handler {
	o.handler = o.handler.WithGroup(name)
	return o
}

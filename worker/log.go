package worker

import (
	"context"
	"log/slog"
	"slices"
	"sync/atomic"

	"github.com/sandboxfn/sbx/internal/wire"
	"github.com/sandboxfn/sbx/internal/wire/wirepb"
)

// records sends what functions log through their contexts. Nothing waits for the session: what does not fit into the
// connection's queue is dropped, and counted.
type records struct {
	conn    *wire.Conn
	level   slog.Level
	dropped atomic.Uint64 // and not reported yet
}

// logger returns the logger of a call.
func (r *records) logger(call uint64) *slog.Logger {
	return slog.New(&logHandler{records: r, call: call, budget: wire.NewLogBudget(), attrs: make([][]*wirepb.Attr, 1)})
}

func (r *records) send(call uint64, record *wirepb.Record) {
	dropped := r.dropped.Swap(0)
	if !r.conn.Offer(logMessage(call, dropped, record)) {
		r.dropped.Add(dropped + 1)
	}
}

// report tells how many records were dropped, if any were. It comes before a call's result, so that it is known with that.
func (r *records) report(call uint64) {
	if dropped := r.dropped.Swap(0); dropped > 0 {
		r.conn.Send(logMessage(call, dropped, nil), nil, nil)
	}
}

func logMessage(call, dropped uint64, record *wirepb.Record) *wirepb.Message {
	return &wirepb.Message{Kind: &wirepb.Message_Log{Log: &wirepb.Log{Call: call, Dropped: dropped, Record: record}}}
}

// logHandler is the handler of a call's logger, and of those that its With and WithGroup return.
type logHandler struct {
	records *records
	call    uint64
	budget  wire.LogBudget // what groups and attrs have left
	groups  []string
	attrs   [][]*wirepb.Attr // those outside of groups, those in the first group, and so on
}

func (h *logHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= h.records.level
}

func (h *logHandler) Handle(_ context.Context, record slog.Record) error {
	budget := h.budget
	given := make([]slog.Attr, 0, record.NumAttrs())
	record.Attrs(func(attr slog.Attr) bool {
		given = append(given, attr)
		return true
	})
	last := len(h.groups)
	attrs := slices.Concat(h.attrs[last], budget.Encode(last, given))
	for i := last - 1; i >= 0; i-- {
		outer := h.attrs[i]
		if len(attrs) > 0 { // slog leaves empty groups out
			group := &wirepb.Attr_Group{Group: &wirepb.Group{Attrs: attrs}}
			outer = slices.Concat(outer, []*wirepb.Attr{{Key: h.groups[i], Value: group}})
		}
		attrs = outer
	}
	h.records.send(h.call, wire.EncodeRecord(record, attrs))
	return nil
}

func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *h
	encoded := with.budget.Encode(len(h.groups), attrs)
	with.attrs = slices.Clone(h.attrs)
	with.attrs[len(h.groups)] = slices.Concat(h.attrs[len(h.groups)], encoded)
	return &with
}

func (h *logHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	with := *h
	name, ok := with.budget.Group(len(h.groups), name)
	if !ok {
		return h
	}
	with.groups = append(slices.Clip(h.groups), name)
	with.attrs = append(slices.Clip(h.attrs), nil)
	return &with
}

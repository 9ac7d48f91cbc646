package worker

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/sandboxfn/sbx/internal/wire"
	"github.com/sandboxfn/sbx/internal/wire/wirepb"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
)

// slow is a session that takes nothing until it is let.
type slow struct {
	release chan struct{}
	frames  chan *wirepb.Frame
}

func (s *slow) Send(frame *wirepb.Frame) error {
	<-s.release
	s.frames <- frame
	return nil
}

func (s *slow) Recv() (*wirepb.Frame, error) { return nil, io.EOF }

// logged runs log with a call's logger, and returns the messages that it made. Nothing is sent before log has returned.
func logged(t *testing.T, log func(*slog.Logger)) (messages []*wirepb.Log) {
	t.Cleanup(func() { goleak.VerifyNone(t) })
	session := &slow{make(chan struct{}), make(chan *wirepb.Frame, 100)}
	conn := wire.NewConn(session, nil)
	r := &records{conn: conn, level: slog.LevelDebug}
	log(r.logger(7))
	r.report(7)
	end := &wirepb.Message{Kind: &wirepb.Message_Ping{Ping: &wirepb.Ping{}}}
	conn.Send(end, nil, nil)
	close(session.release)
	for frame := range session.frames {
		assert.Less(t, proto.Size(frame), wire.MaxFrame)
		for _, message := range frame.GetMessages() {
			if message.GetPing() != nil {
				conn.Close()
				<-conn.Stopped()
				return messages
			}
			assert.EqualValues(t, 7, message.GetLog().GetCall())
			messages = append(messages, message.GetLog())
		}
	}
	return nil
}

func TestWhatDoesNotFitIsDroppedAndCounted(t *testing.T) {
	const goroutines, each = 1000, 100
	messages := logged(t, func(logger *slog.Logger) {
		var all sync.WaitGroup
		for range goroutines {
			all.Go(func() {
				for range each {
					logger.Info("flood", "text", strings.Repeat("x", 1000))
				}
			})
		}
		all.Wait()
	})
	sent, size := 0, 0
	for _, message := range messages {
		sent += int(message.GetDropped())
		size += proto.Size(message)
		if message.GetRecord() != nil {
			sent++
		}
	}
	assert.Equal(t, goroutines*each, sent)
	assert.Less(t, size, 3<<20)
	assert.Positive(t, messages[len(messages)-1].GetDropped(), "the call's end tells what its records did not")
}

func TestLoggersThatGrowAreCut(t *testing.T) {
	messages := logged(t, func(logger *slog.Logger) {
		deep, wide := logger, logger
		for range 1000 {
			deep = deep.WithGroup(strings.Repeat("g", 1000))
			wide = wide.With("k", strings.Repeat("v", 1000))
		}
		deep.Info("deep", "k", 1)
		wide.Info("wide", "k", 1)
	})
	require.Len(t, messages, 2)
	for _, message := range messages {
		assert.Less(t, proto.Size(message), 200<<10)
		record, _ := wire.DecodeRecord(message.GetRecord())
		assert.Contains(t, wire.RecordText(record), wire.LogCut)
	}
}

func TestLoggersAreNotMixedUp(t *testing.T) {
	messages := logged(t, func(logger *slog.Logger) {
		base := logger.With("a", 1).WithGroup("g").With("b", 2)
		one, two := base.With("c", 3), base.With("c", 4)
		inner := base.WithGroup("h")
		one.Info("one")
		two.Info("two", "d", 5)
		inner.Info("inner", "e", 6)
		inner.WithGroup("").Info("base")
		logger.WithGroup("empty").Info("empty")
		third := inner.WithGroup("i")
		j, _ := third.WithGroup("j"), third.WithGroup("k")
		j.Info("deep", "f", 7)
		assert.True(t, logger.Enabled(context.Background(), slog.LevelDebug))
		assert.False(t, logger.Enabled(context.Background(), slog.LevelDebug-1))
		logger.Log(context.Background(), slog.LevelDebug-1, "too low")
	})
	var got []string
	for _, message := range messages {
		record, _ := wire.DecodeRecord(message.GetRecord())
		got = append(got, wire.RecordText(record))
	}
	assert.Equal(t, []string{
		"level=INFO msg=one a=1 g.b=2 g.c=3",
		"level=INFO msg=two a=1 g.b=2 g.c=4 g.d=5",
		"level=INFO msg=inner a=1 g.b=2 g.h.e=6",
		"level=INFO msg=base a=1 g.b=2",
		"level=INFO msg=empty",
		"level=INFO msg=deep a=1 g.b=2 g.h.i.j.f=7",
	}, got)
}

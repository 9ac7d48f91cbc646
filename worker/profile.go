package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime/pprof"
	"runtime/trace"
	"time"

	"github.com/sandboxfn/sbx/internal/wire"
	"github.com/sandboxfn/sbx/internal/wire/wirepb"
)

// maxProfiling bounds how long a profile is recorded.
const maxProfiling = 10 * time.Minute

// profile answers one request for a profile.
func (d *dispatch) profile(request *wirepb.Profile) {
	answer := &wirepb.Profiled{Id: request.GetId()}
	var profile bytes.Buffer
	err := d.takeProfile(&profile, request)
	if err == nil && profile.Len() > wire.MaxValue {
		err = fmt.Errorf("the profile has %d bytes; at most %d can be sent", profile.Len(), wire.MaxValue)
	}
	if err != nil {
		answer.Error = wire.Clip(err.Error(), 1000)
		d.conn.Send(&wirepb.Message{Kind: &wirepb.Message_Profiled{Profiled: answer}}, nil, nil)
		return
	}
	answer.Profile = &wirepb.Body{}
	d.conn.Send(&wirepb.Message{Kind: &wirepb.Message_Profiled{Profiled: answer}}, answer.Profile, profile.Bytes())
}

func (d *dispatch) takeProfile(w *bytes.Buffer, request *wirepb.Profile) error {
	if id := request.GetCall(); id != 0 {
		_, err := w.WriteString(d.stack(id))
		return err
	}
	name := request.GetName()
	if name != "cpu" && name != "trace" {
		p := pprof.Lookup(name)
		if p == nil {
			return fmt.Errorf("there is no profile %q", wire.Clip(name, 100))
		}
		return p.WriteTo(w, int(request.GetDebug()))
	}
	ctx, cancel := context.WithTimeout(d.ctx, min(time.Duration(request.GetDurationNanos()), maxProfiling))
	defer cancel()
	d.mu.Lock()
	if d.recording != 0 {
		d.mu.Unlock()
		return errors.New("another profile of this sandbox is being recorded")
	}
	d.recording, d.stopRecording = request.GetId(), cancel
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		d.recording, d.stopRecording = 0, nil
		d.mu.Unlock()
	}()
	if name == "cpu" {
		if err := pprof.StartCPUProfile(w); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	} else {
		if err := trace.Start(w); err != nil {
			return err
		}
		defer trace.Stop()
	}
	<-ctx.Done()
	return nil
}

// stack is the stack of the goroutine that runs a call's function; empty if none does. The runtime names goroutines only to those who ask for
// a whole stack, which would be much for each call; but it prints the receivers of methods.
func (d *dispatch) stack(id uint64) string {
	d.mu.Lock()
	c := d.calls[id]
	d.mu.Unlock()
	if c == nil {
		return ""
	}
	frame := fmt.Appendf(nil, "worker.(*call).run(%p", c)
	stack := findStack(func(stack []byte) bool { return bytes.Contains(stack, frame) })
	return stack[:min(len(stack), wire.MaxCallStack)]
}

// stopProfile ends a profile that nobody waits for any more.
func (d *dispatch) stopProfile(id uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.recording == id && d.stopRecording != nil {
		d.stopRecording()
	}
}

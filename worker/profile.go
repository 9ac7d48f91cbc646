package worker

import (
	"bytes"
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
	err := errors.New("another profile of this sandbox is being taken")
	if d.profiling.CompareAndSwap(false, true) {
		err = d.takeProfile(&profile, request)
		d.profiling.Store(false)
	}
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
	duration := min(time.Duration(request.GetDurationNanos()), maxProfiling)
	switch name := request.GetName(); name {
	case "cpu":
		if err := pprof.StartCPUProfile(w); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	case "trace":
		if err := trace.Start(w); err != nil {
			return err
		}
		defer trace.Stop()
	default:
		p := pprof.Lookup(name)
		if p == nil {
			return fmt.Errorf("there is no profile %q", wire.Clip(name, 100))
		}
		return p.WriteTo(w, int(request.GetDebug()))
	}
	select {
	case <-time.After(duration):
		return nil
	case <-d.ctx.Done():
		return errors.New("the session ended")
	}
}

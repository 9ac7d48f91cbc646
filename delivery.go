package sbx

// Delivery says how far a call that failed had come.
type Delivery int

const (
	// MayHaveRun says that the function was running, or may have been, when its sandbox was lost or the call was given up. It
	// may have done all of its work, some, or none.
	MayHaveRun Delivery = iota
	// NotBegun says that no code of the function ran, and none will. The call can be made again without harm.
	NotBegun
	// Failed says that the function ran to its end: it returned an error, panicked, or returned what can't be sent.
	Failed
)

func (d Delivery) String() string {
	switch d {
	case NotBegun:
		return "not begun"
	case MayHaveRun:
		return "may have run"
	case Failed:
		return "failed"
	}
	return "unknown"
}

// Attempt is what became of a call in one sandbox.
type Attempt struct {
	// Sandbox is the sandbox's id.
	Sandbox string
	// Delivery is how far the call came there.
	Delivery Delivery
	// Err is why it ended there.
	Err error
}

// keptAttempts bounds the history of a call.
const keptAttempts = 32

// note adds an attempt that failed to the request's history, and draws from it what sandbox the next one wants.
func (f *function) note(r *request, sandbox string, delivery Delivery, err error) {
	r.note(sandbox, delivery, err)
	f.learn(r, err)
}

func (r *request) note(sandbox string, delivery Delivery, err error) {
	if len(r.attempts) == keptAttempts {
		r.attempts = append(r.attempts[:0], r.attempts[1:]...)
	}
	r.attempts = append(r.attempts, Attempt{sandbox, delivery, err})
	if delivery == Failed || r.delivery == NotBegun {
		r.delivery = delivery
	}
	if delivery != NotBegun {
		r.ranIn = sandbox
	}
}

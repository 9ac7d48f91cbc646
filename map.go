package sbx

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sandboxfn/sbx/internal/wire"
	"github.com/sandboxfn/sbx/registry"
)

// MapError is the error of MapSlice when calls failed.
type MapError struct {
	// Inputs is how many inputs there were.
	Inputs int
	// Errors are the errors, in the order in which calls failed: [*CallError], and what ended the run if anything did.
	Errors []error
}

func (e *MapError) Error() string {
	return fmt.Sprintf("sbx: a map of inputs (%d) had errors (%d); the one that came first: %v", e.Inputs, len(e.Errors), e.Errors[0])
}

// Unwrap returns Errors.
func (e *MapError) Unwrap() []error { return e.Errors }

// one is the argument of a function that has one.
func one[In any](in *In) []any { return []any{in} }

// pair is an input of a function with two arguments.
type pair[A, B any] struct {
	a A
	b B
}

func two[A, B any](in *pair[A, B]) []any { return []any{&in.a, &in.b} }

// pairs makes one sequence of two; nil stays nil.
func pairs[A, B any](inputs iter.Seq2[A, B]) iter.Seq[pair[A, B]] {
	if inputs == nil {
		return nil
	}
	return func(yield func(pair[A, B]) bool) {
		for a, b := range inputs {
			if !yield(pair[A, B]{a, b}) {
				return
			}
		}
	}
}

// mapped is the typed face of a run. args returns pointers to the arguments that an input stands for.
func mapped[In, Out any](ctx context.Context, f *function, inputs iter.Seq[In], args func(*In) []any, ordered bool, opts []MapOption) iter.Seq[Result[In, Out]] {
	var ranged atomic.Bool
	opts = slices.Clone(opts) // they count when the results are ranged over
	return func(yield func(Result[In, Out]) bool) {
		run, err := f.newRun(ctx, inputs == nil, ranged.Swap(true), opts)
		if err != nil {
			yield(Result[In, Out]{Index: -1, Err: err})
			return
		}
		source := func(next nextFunc) {
			for in := range inputs {
				decode := func(r *request, data []byte) (any, error) {
					out := new(Out)
					if f.entry.Load().Result() == nil { // an action's
						return out, nil
					}
					return out, f.decode(r, data, out)
				}
				if !next(&in, decode, args(&in)...) {
					return
				}
			}
		}
		for it := range run.items(source, ordered) {
			result := Result[In, Out]{Index: it.index, Err: it.err}
			if it.input != nil {
				result.Input = *it.input.(*In)
			}
			if it.err == nil {
				result.Output = *it.output.(*Out)
			}
			if !yield(result) {
				return
			}
		}
	}
}

// decodeFunc returns a pointer to the decoded result of a call.
type decodeFunc func(r *request, data []byte) (any, error)

// nextFunc takes one input: a pointer to it, how to read its result, and pointers to the arguments.
type nextFunc func(input any, decode decodeFunc, args ...any) bool

// run is one run over many inputs, whatever their types.
type run struct {
	f       *function
	config  mapConfig
	journal mapJournal      // nil if there is none
	display mapDisplay      // nil if there is none
	outer   context.Context // the caller's

	ctx    context.Context // ends with the caller's, with the session, and with the run
	cancel context.CancelCauseFunc
	detach func() bool // from the session

	slots chan struct{} // holds one for every input that was taken and whose result is not handed out
	queue chan *item    // never full: a slot is a place in it
	input chan struct{} // closed when the input has ended
	crash any           // what the input panicked with; set before queue is closed, as is
	cut   bool          // that the input was not taken to its end

	mu    sync.Mutex
	ended bool
	calls sync.WaitGroup
	tally tally
}

// item is one input on its way.
type item struct {
	index         int
	input, output any // pointers
	err           error
	done          chan struct{}
}

func (f *function) newRun(ctx context.Context, noInput, again bool, opts []MapOption) (*run, error) {
	err := f.resolve()
	var config mapConfig
	switch {
	case err != nil:
	case again:
		err = ErrRangedTwice
	case ctx == nil:
		err = errNilContext
	case noInput:
		err = &OptionError{Option: "the input", Reason: "is nil; give a sequence"}
	default:
		config, err = newMapConfig(f.ahead(), opts)
	}
	if err != nil {
		return nil, &CallError{Function: f.name(), Index: -1, Delivery: NotBegun, Err: err}
	}
	runCtx, cancel := context.WithCancelCause(ctx) // a context that panics does so before anything is counted
	var journal mapJournal
	entered := f.session.enter()
	switch {
	case !entered:
		err = ErrClosed
	case config.journal != nil:
		journal, err = config.journal(f)
	}
	if err != nil {
		cancel(err)
		if entered {
			f.session.leave()
		}
		return nil, &CallError{Function: f.name(), Index: -1, Delivery: NotBegun, Err: err}
	}
	r := &run{
		f: f, config: config, journal: journal, outer: ctx, ctx: runCtx, cancel: cancel,
		slots: make(chan struct{}, config.ahead), queue: make(chan *item, config.ahead), input: make(chan struct{}),
	}
	r.detach = context.AfterFunc(f.session.ctx, func() { r.cancel(ErrClosed) })
	if config.show != nil {
		r.display = config.show(r)
	}
	return r, nil
}

// ahead is how many inputs keep every sandbox busy, with calls waiting in each.
func (f *function) ahead() int {
	places := f.session.pool.Maximum()
	if f.where != nil {
		places = 1
	}
	return min(places*(f.class.limits.Concurrency+f.class.limits.Ahead), most)
}

// items takes inputs from source, calls the function on each, and yields what came of them.
func (r *run) items(source func(nextFunc), ordered bool) iter.Seq[*item] {
	return func(yield func(*item) bool) {
		defer r.end()
		go r.take(source, ordered)
		for {
			it := r.await(ordered)
			switch {
			case it == nil && r.crash != nil:
				panic(r.crash)
			case it == nil && !r.cut:
				return
			case it == nil || it.err != nil && r.over():
				// Calls fail together when the context ends; one error says it.
				yield(&item{index: -1, err: &CallError{Function: r.f.name(), Index: -1, Err: r.contextError()}})
				return
			}
			<-r.slots
			if !yield(it) || it.err != nil && r.config.failFast {
				return
			}
		}
	}
}

// errEnded marks the item that stands for the end of the context; items reports that end in its own words.
var errEnded = errors.New("the run has ended")

// await returns the next item that is done, nil if there is none any more, or an item with an error if the context ends.
func (r *run) await(ordered bool) *item {
	ended := &item{err: errEnded}
	select {
	case it := <-r.queue:
		if it == nil || !ordered {
			return it
		}
		select {
		case <-it.done:
			return it
		case <-r.ctx.Done():
			return ended
		}
	case <-r.ctx.Done():
		return ended
	}
}

// over reports whether the run's context has ended, or is about to with its session.
func (r *run) over() bool { return r.ctx.Err() != nil || r.f.session.ctx.Err() != nil }

// contextError is why the run's context ended before the run did.
func (r *run) contextError() error {
	switch {
	case r.outer.Err() != nil:
		return contextError(r.outer)
	case r.ctx.Err() != nil:
		return context.Cause(r.ctx)
	}
	return ErrClosed
}

// take is the goroutine of the input.
func (r *run) take(source func(nextFunc), ordered bool) {
	defer close(r.input)
	defer func() {
		if !ordered {
			r.calls.Wait() // they put themselves into the queue
		}
		close(r.queue)
	}()
	normal := false
	defer func() {
		if crash := recover(); crash != nil {
			r.crash = crash
		} else if !normal {
			r.crash = "sbx: the input of a map, or a marshaler of one, called runtime.Goexit"
		}
	}()
	index := 0
	slot := func() bool {
		select {
		case r.slots <- struct{}{}:
			return r.ctx.Err() == nil
		case <-r.ctx.Done():
			return false
		}
	}
	if r.cut = !slot(); !r.cut {
		source(func(input any, decode decodeFunc, args ...any) bool {
			it := &item{index: index, input: input, done: make(chan struct{})}
			index++
			// A slot is taken before the input is asked for the next value: what is not needed is not pulled.
			r.cut = !r.begin(it, ordered, decode, args) || !slot()
			return !r.cut
		})
	}
	normal = true
}

// begin starts the call of an item. It returns false if the run has ended.
func (r *run) begin(it *item, ordered bool, decode decodeFunc, args []any) bool {
	encode := (*registry.Entry).EncodeArgs
	if r.journal != nil { // which finds inputs by what they are encoded to
		encode = (*registry.Entry).EncodeArgsSorted
	}
	request, err := r.f.prepareBy(r.ctx, it.index, encode, args) // a marshaler may take its time, or panic
	var past *outcome
	if err == nil && r.journal != nil {
		if past, err = r.journal.recall(request); err != nil {
			r.cancel(err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended || r.ctx.Err() != nil {
		return false
	}
	if ordered {
		r.queue <- it
	}
	finish := func() {
		if it.err == nil || !r.over() { // those that end with the run, or the session, are not done
			r.tally.count(request, past != nil, it.err)
		}
		close(it.done)
		if !ordered {
			r.queue <- it
		}
	}
	if err != nil {
		it.err = err
		finish()
		return true
	}
	request.calls, request.budget, request.flow = &r.calls, r.config.budget, r
	if r.display != nil {
		request.told = &r.tally.told
	}
	if past == nil {
		r.f.queue(request)
	}
	r.calls.Go(func() {
		returned := false
		defer func() {
			if !returned {
				it.err = r.f.goexitError(request)
			}
			finish()
		}()
		it.output, it.err = r.finish(request, past, decode)
		returned = true
	})
	return true
}

// outcome is what came of a call: an error, or a result if that is nil.
type outcome struct {
	data []byte
	err  error
}

// finish finishes a prepared call, of which past is known if it is not nil.
func (r *run) finish(request *request, past *outcome, decode decodeFunc) (any, error) {
	if past == nil {
		data, err := r.f.run(request)
		if err := r.note(request, data, err); err != nil {
			r.cancel(err)
			return nil, err
		}
		past = &outcome{data, err}
	}
	if past.err != nil {
		return nil, past.err
	}
	request.delivery = Failed // it ran, should its result not be readable
	return decode(request, past.data)
}

// note writes down what came of a call, unless the next run may as well find it out.
func (r *run) note(request *request, data []byte, err error) error {
	if r.journal == nil || err != nil && (r.over() || !final(request, err)) {
		return nil
	}
	return r.journal.note(request, data, err)
}

// final reports whether an error is what came of the input, and not of this run: of a context's end, a start that failed, a budget, an interceptor.
func final(request *request, err error) bool {
	if request.delivery == NotBegun || request.cut {
		return false
	}
	var lost *SandboxLostError
	var stuck *StuckError
	return request.delivery == Failed || errors.As(err, &lost) || errors.As(err, &stuck)
}

// end cancels what runs and waits for it. An input that blocks is waited for only so long: nothing can end it, and it
// ends by itself at its next value.
func (r *run) end() {
	defer r.f.session.leave()
	if r.journal != nil {
		defer func() { _ = r.journal.close() }() // what was handed out is on the disk
	}
	if r.display != nil {
		defer r.display.end()
	}
	r.cancel(context.Canceled)
	r.detach()
	r.mu.Lock()
	r.ended = true
	r.mu.Unlock()
	r.calls.Wait()
	timer := time.NewTimer(wire.Grace)
	defer timer.Stop()
	select {
	case <-r.input:
	case <-timer.C:
	}
}

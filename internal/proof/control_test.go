package proof

import (
	"context"
	"testing"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/local"
	"github.com/sandboxfn/sbx/driver/process"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestTheProofCanFail breaks each promise on purpose, and looks whether the same check finds it.
func TestTheProofCanFail(t *testing.T) {
	const mark = "one"
	exits, innocent := kind{name: "guilty", end: "exit"}, kind{name: "innocent", end: "return"}
	obey := func(r *run, k kind, order Order, opts ...sbx.FunctionOption) report {
		order.Journal, order.Mark = r.journal, mark
		result, err := r.session.Function(Obey, opts...).Call(context.Background(), order)
		return reportOf(k, mark, result, err, nil)
	}
	broken := []struct {
		name string
		does func(r *run) report
		want string // empty where nothing is broken
	}{
		{"nothing is", func(r *run) report { return obey(r, exits, Order{End: "exit"}) }, ""},
		{"a lost call is sent again regardless", func(r *run) report {
			rep := obey(r, exits, Order{End: "exit"})
			obey(r, exits, Order{End: "exit"})
			return rep
		}, "it ran 2 times; at most 1 are allowed"},
		{"a call that ran is sent again", func(r *run) report {
			obey(r, innocent, Order{End: "return"})
			return obey(r, innocent, Order{End: "return"})
		}, "it ran 2 times; at most 1 are allowed"},
		{"an attempt too many", func(r *run) report {
			return obey(r, kind{name: "guilty", end: "exit", retries: 1}, Order{End: "exit"}, sbx.Retries(2))
		}, "it ran 3 times; at most 2 are allowed"},
		{"an attempt too few", func(r *run) report {
			return obey(r, kind{name: "guilty", end: "exit", retries: 2}, Order{End: "exit"}, sbx.Retries(1))
		}, "it ran 2 times and failed; 3 times are asked for"},
		{"a result of nothing", func(r *run) report {
			result, err := r.session.Function(Forget).Call(context.Background(), Order{Mark: mark})
			return reportOf(innocent, mark, result, err, nil)
		}, "it has a result, and did not run"},
		{"a result of another call", func(r *run) report {
			rep := obey(r, innocent, Order{End: "return"})
			return reportOf(innocent, rep.mark, "two", nil, nil)
		}, `the result of another call, "two"`},
		{"what ran is said not to have begun", func(r *run) report {
			rep := obey(r, exits, Order{End: "exit"})
			rep.delivery = sbx.NotBegun
			return rep
		}, "it ran 1 times, and is reported as not begun"},
		{"what did not begin is said to have", func(*run) report {
			return report{kind: exits, mark: mark, delivery: sbx.MayHaveRun, lost: true, attempts: 1}
		}, "it ran 0 times, and is reported to have begun 1 times"},
		{"another end than it is said", func(r *run) report {
			return obey(r, kind{name: "guilty", end: "kill"}, Order{End: "exit"})
		}, "the error does not tell how the sandbox ended"},
		{"an innocent call pays for another", func(r *run) report {
			return obey(r, innocent, Order{End: "exit"})
		}, "it lost its sandbox, which nothing else was to end"},
		{"an error from nowhere", func(r *run) report {
			return obey(r, innocent, Order{End: "fail"})
		}, "nothing that happened to it ends so"},
		{"a call hangs", func(*run) report { return report{kind: innocent, mark: mark, hung: true} }, "it did not return"},
		{"a mark of no call", func(r *run) report {
			obey(r, innocent, Order{End: "return"})
			return report{kind: kind{end: "return", hasty: true}, mark: "two", delivery: sbx.NotBegun}
		}, `a mark that no call was to leave: "one"`},
	}
	for _, d := range []driver.Driver{process.New(), local.New(nil)} {
		for _, b := range broken {
			t.Run(d.Name()+"/"+b.name, func(t *testing.T) {
				r := newRun(t, d, way{sandboxes: 1})
				r.note(b.does(r))
				r.close(t)
				problems, counts := r.verdict()
				if b.want == "" {
					assert.Empty(t, problems, counts)
					return
				}
				require.Len(t, problems, 1)
				assert.Contains(t, problems[0], b.want)
			})
		}
	}
}

// TestAHangIsFound has a call that does not return in time.
func TestAHangIsFound(t *testing.T) {
	r := newRun(t, process.New(), way{sandboxes: 1})
	defer r.close(t)
	call := r.session.Function(Obey).Spawn(t.Context(), Order{Journal: r.journal, Mark: "one", End: "wait"})
	assert.False(t, returns(call.Done(), 10*time.Millisecond))
	call.Cancel()
	assert.True(t, returns(call.Done(), patience))
}

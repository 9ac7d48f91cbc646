package sbx_test

import (
	"context"
	"encoding/json"
	"errors"
	"expvar"
	"fmt"
	"log"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sandboxfn/sbx"
)

// openExample opens a session of local sandboxes whose functions' output is not logged.
func openExample(ctx context.Context) *sbx.Session {
	session, err := sbx.Open(ctx, sbx.Logger(slog.New(slog.DiscardHandler)))
	if err != nil {
		log.Fatal(err)
	}
	return session
}

func ExampleOpen() {
	ctx := context.Background()
	session, err := sbx.Open(ctx, sbx.MaxSandboxes(2), sbx.Env("MODE", "test"))
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close()

	mode, err := session.Function(Getenv).Call(ctx, "MODE")
	fmt.Println(mode, err)
	// Output: test <nil>
}

func ExampleSession_Function() {
	ctx := context.Background()
	session := openExample(ctx)
	defer session.Close()

	train := session.Function(Train, sbx.Timeout(time.Minute), sbx.Retries(2))
	report, err := train.Call(ctx, Job{Name: "first", Epochs: 3})
	fmt.Println(report.Job.Name, report.Steps, err)
	// Output: first [begin end] <nil>
}

func ExampleSession_Action() {
	ctx := context.Background()
	session := openExample(ctx)
	defer session.Close()

	err := session.Action(Check).Call(ctx, "")
	fmt.Println(errors.Is(err, ErrOdd))
	// Output: true
}

func ExampleSession_Function2() {
	ctx := context.Background()
	session := openExample(ctx)
	defer session.Close()

	text, err := session.Function2(Join).Call(ctx, []string{"a", "b"}, "-")
	fmt.Println(text, err)
	// Output: a-b <nil>
}

func ExampleFunction_Call_errors() {
	ctx := context.Background()
	session := openExample(ctx)
	defer session.Close()

	_, err := session.Function(Half).Call(ctx, 3)
	var function *sbx.FunctionError
	fmt.Println(errors.Is(err, ErrOdd), errors.As(err, &function), function.Type)

	_, err = session.Function(Exit).Call(ctx, 7)
	var lost *sbx.SandboxLostError
	fmt.Println(errors.As(err, &lost), lost.Exit)
	// Output:
	// true true *fmt.wrapError
	// true exit status 7
}

func ExampleFunction_Spawn() {
	ctx := context.Background()
	session := openExample(ctx)
	defer session.Close()

	call := session.Function(Double).Spawn(ctx, 21)
	// … something else …
	n, err := call.Result(ctx)
	fmt.Println(n, err)
	// Output: 42 <nil>
}

func ExampleFunction_Map() {
	ctx := context.Background()
	session := openExample(ctx)
	defer session.Close()

	for n, err := range session.Function(Half).Map(ctx, slices.Values([]int{2, 3, 4})) {
		if err != nil {
			fmt.Println("failed:", errors.Is(err, ErrOdd))
			continue
		}
		fmt.Println(n)
	}
	// Output:
	// 1
	// failed: true
	// 2
}

func ExampleJournal() {
	ctx := context.Background()
	session := openExample(ctx)
	defer session.Close()
	folder, err := os.MkdirTemp("", "sbx-example-*")
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(folder) }()
	journal := sbx.Journal(filepath.Join(folder, "double.journal"))

	double := session.Function(Double, sbx.Version("1"))
	for n, err := range double.Map(ctx, slices.Values([]int{1, 2, 3}), journal) {
		fmt.Println(n, err)
	}
	// Another run, of this program or the next one, has what is there already, and computes the rest.
	before := session.Stats().Sent
	results, err := double.MapSlice(ctx, []int{3, 2, 1, 4}, journal)
	fmt.Println(results, err, session.Stats().Sent-before, "call")
	// Output:
	// 2 <nil>
	// 4 <nil>
	// 6 <nil>
	// [6 4 2 8] <nil> 1 call
}

func ExampleFunction_MapUnordered() {
	ctx := context.Background()
	session := openExample(ctx)
	defer session.Close()

	for r := range session.Function(Double).MapUnordered(ctx, slices.Values([]int{10, 20, 30})) {
		fmt.Println(r.Index, r.Input, r.Output, r.Err)
	}
	// Unordered output:
	// 0 10 20 <nil>
	// 1 20 40 <nil>
	// 2 30 60 <nil>
}

func ExampleFunction_MapSlice() {
	ctx := context.Background()
	session := openExample(ctx)
	defer session.Close()

	halves, err := session.Function(Half).MapSlice(ctx, []int{2, 4, 5})
	fmt.Println(halves)
	fmt.Println(errors.Is(err, ErrOdd))
	// Output:
	// [1 2 0]
	// true
}

func ExampleInfo() {
	ctx := context.Background()
	session := openExample(ctx)
	defer session.Close()

	info, err := session.Function0(Where).Call(ctx) // Where returns what Info gives it
	fmt.Println(info.Function, info.Attempt, err)
	// Output: github.com/sandboxfn/sbx_test.Where 1 <nil>
}

func ExampleTimeout() {
	ctx := context.Background()
	session := openExample(ctx)
	defer session.Close()

	_, err := session.Function(Wait, sbx.Timeout(20*time.Millisecond)).Call(ctx, false)
	fmt.Println(errors.Is(err, sbx.ErrTimeout))
	// Output: true
}

func ExampleLog() {
	ctx := context.Background()
	handler := slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: func(_ []string, attr slog.Attr) slog.Attr {
		if attr.Key == slog.TimeKey || attr.Key == "sandbox" || attr.Key == "call" {
			return slog.Attr{} // they differ from run to run
		}
		return attr
	}})
	session, err := sbx.Open(ctx, sbx.Logger(slog.New(handler)))
	if err != nil {
		log.Fatal(err)
	}
	// Greet calls sbx.Log(ctx).Info("greeting", "name", name).
	if err := session.Action(Greet).Call(ctx, "Ada"); err != nil {
		log.Fatal(err)
	}
	_ = session.Close() // waits until the handler has all records
	// Output: level=INFO msg=greeting function=github.com/sandboxfn/sbx_test.Greet name=Ada
}

func ExampleSession_Prewarm() {
	ctx := context.Background()
	session, err := sbx.Open(ctx, sbx.MaxSandboxes(2), sbx.Concurrency(4), sbx.Logger(slog.New(slog.DiscardHandler)))
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close()

	if err := session.Prewarm(ctx, 2); err != nil {
		log.Fatal(err)
	}
	stats := session.Stats()
	fmt.Println(stats.Idle, "sandboxes are ready")
	// Output: 2 sandboxes are ready
}

// Two sandboxes are there before the first call, and whenever calls come later.
func ExampleMinSandboxes() {
	ctx := context.Background()
	session, err := sbx.Open(ctx, sbx.MaxSandboxes(4), sbx.MinSandboxes(2), sbx.IdleTime(time.Minute), sbx.Logger(slog.New(slog.DiscardHandler)))
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close()

	fmt.Println(session.Function(Double).Call(ctx, 21))
	// Output: 42 <nil>
}

// A session is told how much of the machine it may use by now.
func ExampleSession_SetMaxSandboxes() {
	ctx := context.Background()
	session := openExample(ctx)
	defer session.Close()

	if err := session.SetMaxSandboxes(8); err != nil {
		log.Fatal(err)
	}
	fmt.Println(session.Stats().MaxSandboxes)
	// Output: 8
}

// A driver whose sandboxes start on other machines may start many at the same time.
func ExampleStartsAtOnce() {
	ctx := context.Background()
	session, err := sbx.Open(ctx, sbx.MaxSandboxes(2), sbx.StartsAtOnce(2), sbx.Logger(slog.New(slog.DiscardHandler)))
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close()

	fmt.Println(session.Prewarm(ctx, 2))
	// Output: <nil>
}

// No call sees what another one left behind.
func ExampleFresh() {
	ctx := context.Background()
	session, err := sbx.Open(ctx, sbx.MaxSandboxes(4), sbx.Logger(slog.New(slog.DiscardHandler)))
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close()

	where := session.Function0(Where, sbx.Fresh())
	first, _ := where.Call(ctx)
	second, _ := where.Call(ctx)
	fmt.Println(first.Sandbox != second.Sandbox)
	// Output: true
}

// A session's numbers among those that the program serves as /debug/vars. OpenTelemetry's observable instruments read the same function.
func ExampleSession_Stats() {
	ctx := context.Background()
	session := openExample(ctx)
	defer session.Close()
	expvar.Publish("sandboxes", expvar.Func(func() any { return session.Stats() }))

	if err := session.Sandbox().Start(ctx); err != nil {
		log.Fatal(err)
	}
	var numbers struct{ Own struct{ Made, Started int } }
	if err := json.Unmarshal([]byte(expvar.Get("sandboxes").String()), &numbers); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%+v\n", numbers.Own)
	// Output: {Made:1 Started:1}
}

func ExampleSession_Shutdown() {
	ctx := context.Background()
	session := openExample(ctx)
	call := session.Function(Double).Spawn(ctx, 21)

	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := session.Shutdown(ctx); err != nil { // waits for the call
		log.Fatal(err)
	}
	fmt.Println(call.Result(ctx))
	// Output: 42 <nil>
}

// A call that failed tells how far it came.
func ExampleDelivery() {
	ctx := context.Background()
	session := openExample(ctx)
	defer session.Close()

	_, err := session.Function(Exit).Call(ctx, 3)
	var call *sbx.CallError
	if errors.As(err, &call) {
		fmt.Println(call.Delivery, errors.Is(err, sbx.ErrExited), len(call.Attempts))
	}
	// Output: may have run true 1
}

// An interceptor measures every call and gives it the id of a trace.
func ExampleIntercept() {
	trace := func(ctx context.Context, call sbx.CallInfo, next func(context.Context) error) error {
		begin := time.Now()
		err := next(sbx.WithMetadata(ctx, "trace", "t-1"))
		slog.Debug("called", "function", call.Function, "call", call.Call, "took", time.Since(begin), "error", err)
		return err
	}
	ctx := context.Background()
	session, err := sbx.Open(ctx, sbx.Intercept(trace), sbx.Logger(slog.New(slog.DiscardHandler)))
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close()

	fmt.Println(session.Function(Meta).Call(ctx, "trace")) // it looks into sbx.Info(ctx).Metadata
	// Output: t-1 <nil>
}

// A call that takes long tells what it is at.
func ExampleCall_Stacks() {
	ctx := context.Background()
	session := openExample(ctx)
	defer session.Close()

	call := session.Function(Wait).Spawn(ctx, false)
	defer call.Cancel()
	for {
		stacks, err := call.Stacks(ctx)
		if err == nil && strings.Contains(string(stacks), "sbx_test.Wait(") {
			fmt.Println("it waits in Wait")
			return
		}
		time.Sleep(10 * time.Millisecond) // it waits for its sandbox
	}
	// Output: it waits in Wait
}

func ExampleSession_Profile() {
	ctx := context.Background()
	session := openExample(ctx)
	defer session.Close()

	where, err := session.Function0(Where).Call(ctx)
	if err != nil {
		log.Fatal(err)
	}
	profile, err := session.Profile(ctx, where.Sandbox, "heap", 0)
	fmt.Println(len(profile) > 0, err) // for go tool pprof
	// Output: true <nil>
}

// Sandboxes run the worker that sbxgen built, and Open builds it when it is missing or the source has changed.
func ExampleBuiltWorker() {
	ctx := context.Background()
	session, err := sbx.Open(ctx, sbx.BuiltWorker(), sbx.AutoBuild())
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close()
}

// A worker that "go tool sbxgen worker -o train.worker" wrote serves the program's calls.
func ExampleWorkerFile() {
	ctx := context.Background()
	session, err := sbx.Open(ctx, sbx.WorkerFile("train.worker"))
	if errors.Is(err, sbx.ErrNoWorker) {
		fmt.Println("no such file, no worker, or one for another platform")
		return
	}
	defer session.Close()
	// Output: no such file, no worker, or one for another platform
}

func ExampleProgress() {
	ctx := context.Background()
	session := openExample(ctx)
	defer session.Close()
	call := session.Function(Steps).Spawn(ctx, 3) // which calls sbx.Progress(ctx, 1, 3, "step 1"), and so on
	_, err := call.Result(ctx)
	fmt.Println(call.Progress(), err)
	// Output: 3 of 3: step 3 <nil>
}

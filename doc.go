// Package sbx runs ordinary typed Go functions in sandboxes, as easily as they are called.
//
// Its audience is the author of an application. Wrap a function, and call it:
//
//	session, err := sbx.Open(ctx)
//	if err != nil {
//		return err
//	}
//	defer session.Close()
//
//	train := session.Function(Train) // func(context.Context, Job) (Report, error)
//	report, err := train.Call(ctx, job)
//
// A [Session] keeps a pool of warm sandboxes; [Session.Function] and its siblings wrap functions that are declared
// somewhere (closures and method values can't be sent), and "go generate" with the tool sbxgen registers them:
//
//	//go:generate go tool sbxgen
//
// The program itself is what runs in the sandboxes: it is started again there, its package variables and init functions
// run, and then it serves calls instead of running main. Arguments and results are encoded with msgpack, and keep their
// types. What a function may send is checked by sbxgen. What an interface may hold is checked when it is sent: values of
// the types that package registry lists, and of those that registry.Type registered.
//
// A function finds in its sandbox the environment that [Env] gives, empty standard input, and a folder of its own; what it
// prints goes to the session's [Logger], or to the writers of [Output], and what it logs through [Log] to the Logger with its
// call. Package variables and init functions run in the sandbox too, so open sessions in
// main.
//
// # Delivery
//
// A call is run at most once. It is sent again only if the function certainly did not begin, or if it was wrapped with
// [Retries], and then it is run at least once, and perhaps twice at the same time ([Hedge]). [CallError] says how far a call came that failed: its [Delivery].
//
// Calls of one sandbox run one at a time, unless [Concurrency] says otherwise; when all are busy, some calls already wait in
// a sandbox, and go to another one that is free earlier. Sandboxes are used again by later calls of the same session whose
// options describe the same sandbox, so a function can see what an earlier call of the same program left there; [MaxUses]
// bounds that.
//
// Session and worker show each other signs of life: what is silent for as long as [Lease] says is given up, so that nothing
// waits for ever for something that was stopped.
//
// # Errors
//
// A call's error is a [*CallError] around one of three kinds. Test for them with errors.Is and errors.As:
//
//   - The function's own: [*FunctionError] around the error that it returned, in which errors.Is finds sentinels (those
//     of the standard library, and package-level error variables of the program that sbxgen registered) and errors.As
//     error types, and [*PanicError] with the stack of the sandbox's side.
//   - The system's: [*SandboxLostError], [*StartError], [ErrTimeout] (within a [*StuckError] if the function did not return)
//     and the context's own errors. What ended a sandbox is wrapped: [ErrExited], [ErrOutOfMemory], [ErrStackOverflow],
//     [ErrSilent], or a [*PanicError] of another goroutine.
//   - Wrong use: [ErrClosed], [ErrNotRegistered], [*ArgumentError], [*ResultError], [*OptionError].
package sbx

package sbx_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"time"

	"github.com/sandboxfn/sbx"
)

// In the examples, Try does for each run what the words say.

func ExampleRetries() {
	ctx := context.Background()
	session := openExample(ctx)
	defer session.Close()

	remote := session.Function2(Try, sbx.Retries(10))
	fmt.Println(remote.Call(ctx, "", "exit exit ok"))
	_, err := remote.Call(ctx, "", "exit")
	var call *sbx.CallError
	fmt.Println(errors.Is(err, sbx.ErrPoison), errors.As(err, &call), len(call.Attempts))
	// Output:
	// 3 <nil>
	// true true 3
}

func ExampleRetryIf() {
	ctx := context.Background()
	session := openExample(ctx)
	defer session.Close()

	remote := session.Function2(Try, sbx.Retries(2), sbx.RetryIf(func(err error) bool { return errors.Is(err, ErrOdd) }))
	fmt.Println(remote.Call(ctx, "", "fail fail ok"))
	// Output: 3 <nil>
}

func ExampleBackoff() {
	ctx := context.Background()
	session := openExample(ctx)
	defer session.Close()

	odd := sbx.RetryIf(func(err error) bool { return errors.Is(err, ErrOdd) })
	remote := session.Function2(Try, sbx.Retries(5), odd, sbx.Backoff(time.Millisecond, 10*time.Millisecond))
	fmt.Println(remote.Call(ctx, "", "fail fail fail ok"))
	// Output: 4 <nil>
}

// The first run has 64 MiB, and those that follow, if that is not enough, 128, 256 and 500.
func ExampleRetryMemory() {
	ctx := context.Background()
	session := openExample(ctx)
	defer session.Close()

	limit := sbx.Limit(sbx.Resources{MemoryMiB: 64})
	remote := session.Function(Allocate, limit, sbx.Retries(3), sbx.RetryMemory(500<<20))
	fmt.Println(remote.Call(ctx, 100))
}

func ExampleHedge() {
	ctx := context.Background()
	session, err := sbx.Open(ctx, sbx.MaxSandboxes(2), sbx.Logger(slog.New(slog.DiscardHandler)))
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close()

	remote := session.Function2(Try, sbx.Retries(1), sbx.Hedge(100*time.Millisecond))
	n, err := remote.Call(ctx, "", "1h:ok ok") // the first run takes an hour
	fmt.Println(n, err, session.Stats().HedgesWon)
	// Output: 2 <nil> 1
}

func ExampleRetryBudget() {
	ctx := context.Background()
	session := openExample(ctx)
	defer session.Close()

	remote := session.Function2(Try, sbx.Retries(5), sbx.RetryIf(func(error) bool { return true }))
	plans := func(yield func(string, string) bool) {
		_ = yield("", "fail ok") && yield("", "fail")
	}
	for n, err := range remote.Map(ctx, plans, sbx.RetryBudget(3), sbx.Ahead(1)) {
		fmt.Println(n, errors.Is(err, sbx.ErrRetryBudget), errors.Is(err, ErrOdd))
	}
	// Output:
	// 2 false false
	// 0 true true
}

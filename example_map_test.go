package sbx_test

import (
	"context"
	"errors"
	"fmt"
)

func ExampleFunction2_Map() {
	ctx := context.Background()
	session := openExample(ctx)
	defer session.Close()

	pairs := func(yield func([]string, string) bool) {
		_ = yield([]string{"a", "b"}, "-") && yield([]string{"c", "d"}, "+")
	}
	for text, err := range session.Function2(Join).Map(ctx, pairs) {
		fmt.Println(text, err)
	}
	// Output:
	// a-b <nil>
	// c+d <nil>
}

func ExampleFunction2_MapUnordered() {
	ctx := context.Background()
	session := openExample(ctx)
	defer session.Close()

	pairs := func(yield func([]string, string) bool) {
		_ = yield([]string{"a", "b"}, "-") && yield([]string{"c", "d"}, "+")
	}
	for r := range session.Function2(Join).MapUnordered(ctx, pairs) {
		fmt.Println(r.Index, r.A, r.B, r.Output, r.Err)
	}
	// Unordered output:
	// 0 [a b] - a-b <nil>
	// 1 [c d] + c+d <nil>
}

func ExampleAction_Map() {
	ctx := context.Background()
	session := openExample(ctx)
	defer session.Close()

	texts := func(yield func(string) bool) { _ = yield("text") && yield("") }
	for err := range session.Action(Check).Map(ctx, texts) {
		fmt.Println(errors.Is(err, ErrOdd))
	}
	// Output:
	// false
	// true
}

func ExampleAction_MapUnordered() {
	ctx := context.Background()
	session := openExample(ctx)
	defer session.Close()

	texts := func(yield func(string) bool) { _ = yield("text") && yield("") }
	for r := range session.Action(Check).MapUnordered(ctx, texts) {
		fmt.Printf("%q %v\n", r.Input, errors.Is(r.Err, ErrOdd))
	}
	// Unordered output:
	// "text" false
	// "" true
}

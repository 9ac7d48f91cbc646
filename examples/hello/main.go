// Command hello counts words in a sandbox.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"slices"
	"strings"

	"github.com/sandboxfn/sbx"
)

//go:generate go tool sbxgen
var ErrEmpty = errors.New("no words")

func Count(ctx context.Context, text string) (int, error) {
	fmt.Printf("process %d counts the words of %q\n", os.Getpid(), text)
	if words := len(strings.Fields(text)); words > 0 {
		return words, nil
	}
	return 0, ErrEmpty
}

func main() {
	ctx := context.Background()
	session, err := sbx.Open(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close()
	count := session.Function(Count)
	fmt.Println(count.Call(ctx, "an unchanged Go function"))
	for words, err := range count.Map(ctx, slices.Values([]string{"one", "one two", " "})) {
		fmt.Println(words, err, errors.Is(err, ErrEmpty))
	}
}

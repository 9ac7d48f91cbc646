//go:build linux

package sbx_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"strings"
	"time"

	"github.com/sandboxfn/sbx"
)

func ExampleSandbox_Command() {
	session := openExample(context.Background())
	defer session.Close()
	sb := session.Sandbox(sbx.Env("GREETING", "hello"))

	output, err := sb.Command("sh", "-c", "echo $GREETING from $(pwd)").Output()
	fmt.Printf("%s%v\n", output, err)

	cmd := sb.Command("tr", "a-z", "A-Z")
	cmd.Stdin = strings.NewReader("shout\n")
	output, err = cmd.Output()
	fmt.Printf("%s%v\n", output, err)

	err = sb.Command("sh", "-c", "exit 3").Run()
	var exit *sbx.ExitError
	fmt.Println(errors.As(err, &exit), exit.Exit.Code)
	// Output:
	// hello from /work
	// <nil>
	// SHOUT
	// <nil>
	// true 3
}

// A command is killed, with all that it started in its process group, when its context ends.
func ExampleSandbox_CommandContext() {
	session := openExample(context.Background())
	defer session.Close()
	sb := session.Sandbox()
	if err := sb.Start(context.Background()); err != nil {
		log.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	err := sb.CommandContext(ctx, "sh", "-c", "sleep 1000 & sleep 1000").Run()
	fmt.Println(errors.Is(err, context.DeadlineExceeded))
	// Output: true
}

// A program that answers line by line: the script keeps its sum between the questions.
func ExampleCmd_StdinPipe() {
	session := openExample(context.Background())
	defer session.Close()

	cmd := session.Sandbox().Command("sh", "-c", "sum=0; while read n; do sum=$((sum + n)); echo $sum; done")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		log.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		log.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		log.Fatal(err)
	}
	for _, number := range []int{1, 2, 3} {
		if _, err := fmt.Fprintln(stdin, number); err != nil {
			log.Fatal(err)
		}
		var sum int
		if _, err := fmt.Fscan(stdout, &sum); err != nil {
			log.Fatal(err)
		}
		fmt.Println(sum)
	}
	if err := stdin.Close(); err != nil {
		log.Fatal(err)
	}
	rest, err := io.ReadAll(stdout)
	fmt.Println(len(rest), err, cmd.Wait())
	// Output:
	// 1
	// 3
	// 6
	// 0 <nil> <nil>
}

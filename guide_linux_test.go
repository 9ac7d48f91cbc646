package sbx_test

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"log"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sandboxfn/sbx"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The bodies of the examples of this file are the Go of docs/guide.md.

func Example_guideBasicUsage() {
	ctx := context.Background()
	// The configuration that its sandboxes share
	session, err := sbx.Open(ctx, sbx.Tags("project-alpha"), sbx.Env("MODE", "test"))
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close() // stops all sandboxes

	// Make sandboxes through the session
	sb1 := session.Sandbox()
	sb2 := session.Sandbox()

	// Use them
	result1, err := sb1.Command("echo", "sandbox 1").Output()
	fmt.Printf("%s%v\n", result1, err)
	result2, err := sb2.Command("echo", "sandbox 2").Output()
	fmt.Printf("%s%v\n", result2, err)
	// Output:
	// sandbox 1
	// <nil>
	// sandbox 2
	// <nil>
}

func Example_guideStartsWhenItIsUsed() {
	ctx := context.Background()
	session, err := sbx.Open(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close()

	// Sandbox returns a sandbox that is not started
	sandbox := session.Sandbox()
	fmt.Println(sandbox.Status())

	// What is done with it starts it
	result, err := sandbox.Command("echo", "hello").Output()
	fmt.Printf("%s%v %v\n", result, err, sandbox.Status())
	// Output:
	// unstarted
	// hello
	// <nil> running
}

func Example_guideStart() {
	ctx := context.Background()
	session, err := sbx.Open(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close()

	sandbox := session.Sandbox()
	startCtx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := sandbox.Start(startCtx); err != nil { // returns when it runs
		log.Fatal(err)
	}
	result, err := sandbox.Command("echo", "hello").Output()
	fmt.Printf("%s%v\n", result, err)
	// Output:
	// hello
	// <nil>
}

func Example_guideOverrideDefaults() {
	ctx := context.Background()
	// A session with a base configuration
	session, err := sbx.Open(ctx, sbx.Tags("my-project"), sbx.Env("MODE", "test"))
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close()

	// Override a variable and the limits for this sandbox
	large := session.Sandbox(
		sbx.Env("MODE", "large"),
		sbx.LimitIfPossible(sbx.Resources{CPUs: 1, MemoryMiB: 512, Processes: 200}),
		sbx.Tags("large-workload"), // appended to the session's tags
	)
	mode, err := large.Command("sh", "-c", "echo $MODE").Output()
	fmt.Printf("%s%v %v\n", mode, large.Tags(), err)
	// Output:
	// large
	// [my-project large-workload] <nil>
}

func Example_guidePool() {
	ctx := context.Background()
	session, err := sbx.Open(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close() // all 5 sandboxes end here

	// Start a command in each sandbox of a pool; none waits for another
	var commands []*sbx.Cmd
	outputs := make([]strings.Builder, 5)
	for i := range outputs {
		command := session.Sandbox().Command("sh", "-c", fmt.Sprintf("echo $((%d * %d))", i, i))
		command.Stdout = &outputs[i]
		if err := command.Start(); err != nil {
			log.Fatal(err)
		}
		commands = append(commands, command)
	}

	// Collect the results
	for i, command := range commands {
		err := command.Wait()
		fmt.Println(strings.TrimSpace(outputs[i].String()), err)
	}
	// Output:
	// 0 <nil>
	// 1 <nil>
	// 4 <nil>
	// 9 <nil>
	// 16 <nil>
}

func Example_guideClose() {
	ctx := context.Background()
	session, err := sbx.Open(ctx)
	if err != nil {
		log.Fatal(err)
	}
	sandbox := session.Sandbox()
	result, err := sandbox.Command("echo", "hello").Output()
	fmt.Printf("%s%v\n", result, err)

	// Close the session: it stops all sandboxes
	if err := session.Close(); err != nil {
		log.Fatal(err)
	}
	fmt.Println(sandbox.Status())
	// Output:
	// hello
	// <nil>
	// stopped
}

func Example_guideErrors() {
	ctx := context.Background()
	work := func() (sandbox *sbx.Sandbox, err error) {
		session, err := sbx.Open(ctx)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, session.Close()) }()

		sandbox = session.Sandbox()
		if err := sandbox.Start(ctx); err != nil {
			return nil, err
		}
		return sandbox, errors.New("something went wrong")
	}
	sandbox, err := work()
	fmt.Println(err)
	fmt.Println(sandbox.Status()) // it is cleaned up all the same, and so it is after a panic
	// Output:
	// something went wrong
	// stopped
}

func Example_guideAdopt() {
	ctx := context.Background()
	elsewhere, err := sbx.Open(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer elsewhere.Close()
	if err := elsewhere.Sandbox(sbx.Tags("orphaned-work")).Start(ctx); err != nil {
		log.Fatal(err)
	}

	session, err := sbx.Open(ctx)
	if err != nil {
		log.Fatal(err)
	}
	// Find sandboxes that exist
	existing, err := session.List(ctx, "orphaned-work")
	if err != nil {
		log.Fatal(err)
	}
	// Adopt them for cleanup
	for _, sandbox := range existing {
		if err := session.Adopt(sandbox); err != nil {
			log.Fatal(err)
		}
	}
	// Now session.Close cleans them up, too
	if err := session.Close(); err != nil {
		log.Fatal(err)
	}
	for _, sandbox := range existing {
		fmt.Println(sandbox.Status())
	}
	// Output: stopped
}

func Example_guideCount() {
	ctx := context.Background()
	session, err := sbx.Open(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close()

	// Number of sandboxes that the session has
	fmt.Println(session.SandboxCount())
	session.Sandbox()
	fmt.Println(session.SandboxCount())
	// Output:
	// 0
	// 1
}

func Example_guideRun() {
	ctx := context.Background()
	// One sandbox without a session
	sandbox, err := sbx.Run(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer sandbox.Close()
	result, err := sandbox.Command("echo", "hello").Output()
	fmt.Printf("%s%v\n", result, err)
	// Output:
	// hello
	// <nil>
}

func Example_guideEverythingTogether() {
	ctx := context.Background()
	session, err := sbx.Open(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close()

	sandbox := session.Sandbox(sbx.Secret("TOKEN", sbx.SecretFunc(func(context.Context) (string, error) {
		return "from a vault", nil // or sbx.SecretEnv("TOKEN"), or sbx.SecretFile("/run/secrets/token")
	})))
	if err := sandbox.WriteFile(ctx, "numbers.txt", []byte("1\n2\n3\n"), 0o644); err != nil {
		log.Fatal(err)
	}
	if err := sandbox.Command("sh", "-c", `test -n "$TOKEN" && sort -rn numbers.txt > sorted.txt`).Run(); err != nil {
		log.Fatal(err)
	}
	read := session.Function(ReadFile).In(sandbox) // a function of the program's own
	sorted, err := read.Call(ctx, "sorted.txt")
	fmt.Printf("%s%v\n", sorted, err)
	// Output:
	// 3
	// 2
	// 1
	// <nil>
}

func Example_guideExitStatus() {
	ctx := context.Background()
	sandbox, err := sbx.Run(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer sandbox.Close()

	err = sandbox.Command("sh", "-c", "exit 3").Run()
	var exit *sbx.ExitError
	if errors.As(err, &exit) {
		fmt.Println(exit.Exit.Code)
	}
	timeout, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	err = sandbox.CommandContext(timeout, "sleep", "60").Run()
	fmt.Println(errors.Is(err, context.DeadlineExceeded))
	// Output:
	// 3
	// true
}

func Example_guideSignals() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	session, err := sbx.Open(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close()

	err = session.Sandbox().CommandContext(ctx, "echo", "until the first signal").Run()
	fmt.Println(err)
	// Output: <nil>
}

// TestTheGuideIsRun compares the Go of docs/guide.md with what runs here.
func TestTheGuideIsRun(t *testing.T) {
	const file = "guide_linux_test.go"
	source, err := os.ReadFile(file)
	require.NoError(t, err)
	files := token.NewFileSet()
	parsed, err := parser.ParseFile(files, file, source, 0)
	require.NoError(t, err)
	var run []string
	for _, decl := range parsed.Decls {
		if f, ok := decl.(*ast.FuncDecl); ok && strings.HasPrefix(f.Name.Name, "Example_guide") {
			body := string(source[files.Position(f.Body.Lbrace).Offset+2 : files.Position(f.Body.Rbrace).Offset])
			body = strings.TrimPrefix(body, "\tctx := context.Background()\n")
			run = append(run, strings.ReplaceAll("\n"+body, "\n\t", "\n")[1:])
		}
	}
	guide, err := os.ReadFile("docs/guide.md")
	require.NoError(t, err)
	var shown []string
	for _, block := range regexp.MustCompile("(?s)\n```go\n(.*?)```\n").FindAllStringSubmatch(string(guide), -1) {
		shown = append(shown, block[1])
	}
	require.Greater(t, len(run), 10)
	assert.Equal(t, run, shown)
}

package proof

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/sandboxfn/sbx"
)

//go:generate go tool sbxgen

// Order is what a call is told to do.
type Order struct {
	// Journal is the file that gets the mark; if it is empty, standard output does.
	Journal string
	// Mark is the line that this call writes, and no other.
	Mark string
	// End is how the function ends.
	End string
	// Ends is in how many attempts it ends so; after them it returns. 0 is in all.
	Ends int
	// Work is how long it takes if it returns.
	Work time.Duration
}

var errFailed = errors.New("failed as it was told to")

// Obey leaves its mark as its first statement, whatever becomes of the call, and then ends as the order says. It returns
// the mark.
func Obey(ctx context.Context, order Order) (string, error) {
	if err := leaveMark(order); err != nil {
		return "", err
	}
	if info, _ := sbx.Info(ctx); order.Ends > 0 && info.Attempt > order.Ends {
		return order.Mark, nil
	}
	switch order.End {
	case "return":
		select {
		case <-time.After(order.Work):
			return order.Mark, nil
		case <-ctx.Done():
			return "", ctx.Err()
		}
	case "fail":
		return "", errFailed
	case "panic":
		panic(order.Mark)
	case "wait":
		<-ctx.Done()
		return "", ctx.Err()
	case "exit":
		os.Exit(exitStatus)
	case "panic elsewhere":
		go func() { panic(order.Mark) }()
		select {} // if it returned, when it is cancelled, the panic would hit the next call
	default:
		if err := endProcess(order.End); err != nil {
			return "", err
		}
	}
	<-ctx.Done()
	return "", ctx.Err()
}

// Forget is Obey, but leaves no mark: what must be found out.
func Forget(_ context.Context, order Order) (string, error) { return order.Mark, nil }

const exitStatus = 3

// markPrefix begins the lines that are marks.
const markPrefix = "mark "

// leaveMark writes the line at once: a short line that is appended is whole, and stays when the process is gone.
func leaveMark(order Order) error {
	line := markPrefix + order.Mark + "\n"
	if order.Journal == "" {
		_, err := os.Stdout.WriteString(line)
		return err
	}
	file, err := os.OpenFile(order.Journal, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("the journal: %w", err)
	}
	_, err = file.WriteString(line)
	return errors.Join(err, file.Close())
}

package sbx_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/sandboxfn/sbx"
)

//go:generate go tool sbxgen

var (
	ErrOdd     = errors.New("odd")
	errPrivate = errors.New("private")
)

// What user code does before it could know that it runs in a sandbox must not disturb the protocol.
func init() {
	if os.Getenv("INIT") == "prints" {
		fmt.Println("1|1|unix|forged|grpc|")
		fmt.Fprintln(os.Stderr, "1|1|unix|forged|grpc|")
	}
	if os.Getenv("INIT") == "opens" {
		_, err := sbx.Open(context.Background())
		fmt.Println("open:", errors.Is(err, sbx.ErrInSandbox))
	}
	if os.Getenv("INIT") == "panics" {
		panic("in init")
	}
}

type Job struct {
	Name   string
	Epochs int
	Rates  map[int]float64
	Next   *Job
}

type Report struct {
	Job   Job
	Steps []string
	At    time.Time
}

func Train(_ context.Context, job Job) (Report, error) {
	return Report{Job: job, Steps: []string{"begin", "end"}, At: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)}, nil
}

func Double(_ context.Context, n int) (int, error) { return 2 * n, nil }

func Half(_ context.Context, n int) (int, error) {
	if n%2 != 0 {
		return 0, fmt.Errorf("half of %d: %w", n, errors.Join(ErrOdd, errPrivate, os.ErrInvalid))
	}
	return n / 2, nil
}

func Check(_ context.Context, text string) error {
	if text == "" {
		return ErrOdd
	}
	return nil
}

func Where(ctx context.Context) (sbx.CallInfo, error) {
	info, ok := sbx.Info(ctx)
	if !ok {
		return info, errors.New("no info")
	}
	return info, nil
}

func Join(_ context.Context, words []string, by string) (string, error) {
	return strings.Join(words, by), nil
}

func Last[T any](_ context.Context, list []T) (T, error) {
	if len(list) == 0 {
		var none T
		return none, errors.New("empty list")
	}
	return list[len(list)-1], nil
}

func Explode(_ context.Context, how string) (int, error) {
	switch how {
	case "panic":
		panic("boom: " + how)
	case "nil":
		var m map[string]int
		m["a"] = 1 //nolint:govet,staticcheck // the panic under test
	case "goexit":
		runtime.Goexit()
	case "elsewhere":
		done := make(chan struct{})
		go func() {
			defer close(done)
			panic("on another goroutine")
		}()
		<-done
		time.Sleep(time.Hour) // the program ends first
	}
	return 0, nil
}

func Exit(_ context.Context, code int) (int, error) {
	fmt.Println("going")
	fmt.Fprintln(os.Stderr, "gone")
	os.Exit(code)
	return 0, nil
}

// Append writes a line to a file, and ends the process if the file has fewer lines than needed.
func Append(_ context.Context, path string, needed int) (int, error) {
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	if _, err := file.WriteString("x\n"); err != nil {
		return 0, err
	}
	if err := file.Close(); err != nil {
		return 0, err
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	if len(content)/2 < needed {
		os.Exit(1)
	}
	return len(content) / 2, nil
}

// Wait returns when its context ends: what ended it, and whether it saw a deadline.
func Wait(ctx context.Context, stubborn bool) (string, error) {
	if stubborn {
		select {}
	}
	<-ctx.Done()
	return "", ctx.Err()
}

// Mark touches a file when its context ends.
func Mark(ctx context.Context, begin, end string) (int, error) {
	if err := os.WriteFile(begin, nil, 0o600); err != nil {
		return 0, err
	}
	<-ctx.Done()
	if err := os.WriteFile(end, nil, 0o600); err != nil {
		return 0, err
	}
	return 0, ctx.Err()
}

func Getenv(_ context.Context, key string) (string, error) { return os.Getenv(key), nil }

func Environ(context.Context) ([]string, error) { return os.Environ(), nil }

func Process(context.Context) (int, error) { return os.Getpid(), nil }

func Print(_ context.Context, text string) error {
	fmt.Println(text)
	fmt.Fprintln(os.Stderr, text)
	return nil
}

// Picky can't be decoded if it holds "bad", and can't be encoded if it holds "worse".
type Picky struct{ text string }

func (p Picky) MarshalText() ([]byte, error) {
	if p.text == "worse" {
		return nil, errors.New("not this one")
	}
	return []byte(p.text), nil
}

func (p *Picky) UnmarshalText(text []byte) error {
	if string(text) == "bad" {
		return errors.New("will not")
	}
	p.text = string(text)
	return nil
}

func Pick(_ context.Context, p Picky) (Picky, error) {
	if p.text == "make it worse" {
		return Picky{"worse"}, nil
	}
	return p, nil
}

func OpenInside(ctx context.Context) (string, error) {
	_, err := sbx.Open(ctx)
	if err == nil {
		return "", errors.New("Open worked in a sandbox")
	}
	return fmt.Sprint(errors.Is(err, sbx.ErrInSandbox), " ", err), nil
}

// Slow waits for its context's end, and then returns in some way.
func Slow(ctx context.Context, how string) (string, error) {
	<-ctx.Done()
	switch how {
	case "own error":
		return "", fmt.Errorf("stopped: %w", ErrOdd)
	case "cause":
		return "", context.Cause(ctx)
	case "wrapped error of the context":
		return "", errors.Join(ErrOdd, ctx.Err())
	case "result":
		return "late", nil
	}
	return "", ctx.Err()
}

func ReadFile(_ context.Context, path string) ([]byte, error) { return os.ReadFile(path) }

// Tardy takes a while to be decoded.
type Tardy struct{ while time.Duration }

func (t Tardy) MarshalText() ([]byte, error) { return []byte(t.while.String()), nil }

func (t *Tardy) UnmarshalText(text []byte) (err error) {
	t.while, err = time.ParseDuration(string(text))
	time.Sleep(t.while)
	return err
}

// Left returns how much time it has when it begins.
func Left(ctx context.Context, _ Tardy) (time.Duration, error) {
	deadline, _ := ctx.Deadline()
	return time.Until(deadline), ctx.Err()
}

// Quitter's methods end the goroutine that calls them, where it says so.
type Quitter struct{ where string }

func (q Quitter) MarshalText() ([]byte, error) {
	if q.where == "encode" {
		runtime.Goexit()
	}
	return []byte(q.where), nil
}

func (q *Quitter) UnmarshalText(text []byte) error {
	q.where = string(text)
	if q.where == "decode" {
		runtime.Goexit()
	}
	return nil
}

// Quit returns a value that can't be decoded, or can't be encoded.
func Quit(_ context.Context, where string) (Quitter, error) { return Quitter{where}, nil }

func Quitting(_ context.Context, q Quitter) (string, error) { return q.where, nil }

// quitError ends the goroutine that asks for its text.
type quitError struct{}

func (quitError) Error() string {
	runtime.Goexit()
	return ""
}

// panicError panics when it is compared.
type panicError struct{}

func (panicError) Error() string   { return "panics" }
func (panicError) Is(error) bool   { panic("in Is") }
func (panicError) Unwrap() []error { panic("in Unwrap") }

// Fail returns strange errors.
func Fail(ctx context.Context, how string) (int, error) {
	switch how {
	case "quits":
		return 0, quitError{}
	case "panics":
		return 0, panicError{}
	case "panics late":
		<-ctx.Done()
		return 0, panicError{}
	case "heavy":
		errs := make([]error, 100)
		for i := range errs {
			errs[i] = errors.New(strings.Repeat("x", 64<<10))
		}
		return 0, errors.Join(append(errs, ErrOdd)...)
	}
	return 0, nil
}

func Zeros(_ context.Context, n int) ([]byte, error) { return make([]byte, n), nil }

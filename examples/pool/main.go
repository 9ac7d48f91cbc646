// Command pool shares shell commands out among five sandboxes.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"strings"
	"sync"

	"github.com/sandboxfn/sbx"
)

// Job is a command, and what came of it.
type Job struct {
	Script string
	Output string
	Err    error
}

// RunAll runs the jobs in n sandboxes of the session, a job at a time in each. A sandbox that is busy longer takes fewer jobs.
func RunAll(ctx context.Context, session *sbx.Session, n int, jobs []Job) {
	next := make(chan *Job)
	var workers sync.WaitGroup
	for range n {
		workers.Go(func() {
			sb := session.Sandbox() // starts with its first job; the session's Close stops it
			for job := range next {
				output, err := sb.CommandContext(ctx, "sh", "-c", job.Script).Output()
				job.Output, job.Err = strings.TrimSpace(string(output)), err
			}
		})
	}
	for i := range jobs {
		next <- &jobs[i]
	}
	close(next)
	workers.Wait()
}

func run(ctx context.Context, w io.Writer, opts ...sbx.OpenOption) error {
	session, err := sbx.Open(ctx, append(opts, sbx.Tags("pool"))...)
	if err != nil {
		return err
	}
	defer session.Close()

	var jobs []Job
	for i := range 20 {
		jobs = append(jobs, Job{Script: fmt.Sprintf("echo $((%d * %d))", i, i)})
	}
	jobs = append(jobs, Job{Script: "echo a job may fail >&2; exit 3"})
	RunAll(ctx, session, 5, jobs)
	for i, job := range jobs {
		fmt.Fprintln(w, i, job.Output, job.Err)
	}
	fmt.Fprintln(w, session.SandboxCount(), "sandboxes,", session.Stats().Commands.Succeeded, "commands succeeded")
	return session.Close()
}

func main() {
	if err := run(context.Background(), os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// Command batch is a batch job that may be interrupted: it compresses every file below a folder in ten ways, in sandboxes, and says what
// that would save. What it has computed is in a journal. After Ctrl-C, kill -9 or a loss of power, the same command goes on where it was.
//
//	go run ./examples/batch [-journal file] [-n sandboxes] [folder]
package main

import (
	"compress/flate"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"log"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/sandboxfn/sbx"
)

//go:generate go tool sbxgen

// version is to change with Compress: what the journal has of another version is computed again. Without sbx.Version the whole program
// is the version.
const version = "1"

const (
	// maxFile is how long files may be that are looked at, in bytes.
	maxFile = 8 << 20
	// ahead is how many of them may be in memory.
	ahead = 64
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("batch: ")
	journal := flag.String("journal", "batch.journal", "keep what was computed in `file`")
	sandboxes := flag.Int("n", runtime.NumCPU(), "use at most `n` sandboxes")
	flag.Parse()
	root := runtime.GOROOT() //nolint:staticcheck // where the program was built it is there
	if flag.NArg() > 0 {
		root = flag.Arg(0)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	if err := run(ctx, os.Stdout, root, *journal, *sandboxes); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, w io.Writer, root, journal string, sandboxes int) (err error) {
	screen := sbx.NewScreen(os.Stderr) // for what is logged and the progress
	log.SetOutput(screen)
	session, err := sbx.Open(ctx, sbx.MaxSandboxes(sandboxes))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, session.Close()) }()

	compress := session.Function(Compress, sbx.Version(version), sbx.Retries(2))
	var all total
	failed := 0
	for result := range compress.MapUnordered(ctx, files(root, journal), sbx.Journal(journal), sbx.Ahead(ahead), sbx.ShowProgress(screen)) {
		switch {
		case result.Index < 0: // the whole run's, and not an input's
			err := fmt.Errorf("after %d files: %w", all.files, result.Err)
			if ctx.Err() != nil {
				err = fmt.Errorf("%w; the same command goes on from here", err)
			}
			return err
		case result.Err != nil:
			log.Printf("%s: %v", result.Input.Path, result.Err)
			failed++
		default:
			all.add(result.Output)
		}
	}
	switch {
	case failed > 0:
		err = fmt.Errorf("%d files could not be compressed", failed)
	case all.files == 0:
		return fmt.Errorf("no files below %s", root)
	}
	if session.Stats().Sent == 0 {
		log.Printf("everything was in %s", journal)
	}
	return errors.Join(all.print(w), err)
}

// files are the files below a folder, but for the journal. What can't be read is left out, and said.
func files(folder, journal string) iter.Seq[File] {
	return func(yield func(File) bool) {
		root, err := os.OpenRoot(folder)
		if err != nil {
			log.Print(err)
			return
		}
		defer root.Close()
		err = fs.WalkDir(root.FS(), ".", func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				log.Print(err)
				return nil
			}
			info, err := entry.Info()
			if err != nil || !info.Mode().IsRegular() || info.Size() > maxFile {
				return nil //nolint:nilerr // it is gone
			}
			if own, err := os.Stat(journal); err == nil && os.SameFile(own, info) {
				return nil
			}
			data, err := root.ReadFile(path)
			if err != nil {
				log.Print(err)
				return nil
			}
			if !yield(File{path, data}) {
				return fs.SkipAll
			}
			return nil
		})
		if err != nil {
			log.Print(err)
		}
	}
}

// total is the sum of many Sizes.
type total struct {
	files int
	Sizes
}

func (t *total) add(sizes Sizes) {
	t.files++
	t.Raw += sizes.Raw
	t.LZW += sizes.LZW
	for i, size := range sizes.Flate {
		t.Flate[i] += size
	}
}

func (t *total) print(w io.Writer) error {
	percent := func(size int) float64 { return 100 * float64(size) / float64(max(t.Raw, 1)) }
	_, err := fmt.Fprintf(w, "%d files, %d bytes\nlzw      %5.1f %%\n", t.files, t.Raw, percent(t.LZW))
	for i, size := range t.Flate {
		if err == nil {
			_, err = fmt.Fprintf(w, "flate %d  %5.1f %%\n", flate.BestSpeed+i, percent(size))
		}
	}
	return err
}

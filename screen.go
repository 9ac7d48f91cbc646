package sbx

import (
	"bytes"
	"errors"
	"io"
	"os"
	"sync"

	"github.com/mattn/go-runewidth"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"
)

// barWidth is how wide a bar is where there is room.
const barWidth = 40

// maxPartial is how much of a line is kept whose end has not come.
const maxPartial = 64 << 10

// Screen is a terminal that bars of [ShowProgress] share with what else the program prints there:
//
//	screen := sbx.NewScreen(os.Stderr)
//	slog.SetDefault(slog.New(slog.NewTextHandler(screen, nil))) // before the session is opened
//	reports, err := remote.MapSlice(ctx, jobs, sbx.ShowProgress(screen))
//
// What is written to it appears above the bars, and goes straight to the writer below while there are none. Its methods may be called at the same time.
type Screen struct {
	w io.Writer

	mu      sync.Mutex
	bars    *mpb.Progress // nil while no bar is shown
	shown   int           // bars
	partial []byte        // the begin of a line that was written while bars are shown
}

var errNoScreen = errors.New("sbx: the screen has no writer; use what NewScreen returned for one")

// NewScreen returns a Screen on w. Only an [os.File] can be a terminal; on other writers a Screen does no more than order what is written.
func NewScreen(w io.Writer) *Screen { return &Screen{w: w} }

// Write writes to the screen. While bars are shown, a line's begin waits for its end, and lines for the next time that the bars are drawn. A line
// of which more than 64 KiB wait is broken there.
func (s *Screen) Write(p []byte) (int, error) {
	if s == nil || s.w == nil {
		return 0, errNoScreen
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bars == nil {
		return s.w.Write(p)
	}
	s.partial = append(s.partial, p...)
	end := bytes.LastIndexByte(p, '\n') + 1
	if end > 0 {
		end += len(s.partial) - len(p)
	}
	if len(s.partial)-end > maxPartial {
		s.partial = append(s.partial, '\n')
		end = len(s.partial)
	}
	if end == 0 {
		return len(p), nil
	}
	lines := s.partial[:end]
	s.partial = append([]byte(nil), s.partial[end:]...)
	if _, err := s.bars.Write(lines); err != nil { // the bars can't be drawn any more
		if _, err := s.w.Write(lines); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// terminal is the screen's terminal; nil if it is none that a bar can be drawn on.
func (s *Screen) terminal() *os.File {
	file, ok := s.w.(*os.File)
	if !ok || file == nil || os.Getenv("TERM") == "dumb" || !term.IsTerminal(int(file.Fd())) {
		return nil
	}
	if width, height, err := term.GetSize(int(file.Fd())); err != nil || width == 0 || height == 0 {
		return nil
	}
	return file
}

// show begins to show a run.
func (s *Screen) show(r *run) mapDisplay {
	terminal := s.terminal()
	if terminal == nil {
		return showLines(s, r)
	}
	b := &bar{account: newAccount(r), screen: s, begun: make(chan struct{})}
	go func() { // which a terminal that is stopped holds up
		defer close(b.begun)
		b.begin(terminal)
	}()
	return b
}

// bar shows a run by a bar, which asks for what it shows when it is drawn.
type bar struct {
	account *account
	screen  *Screen
	begun   chan struct{} // closed when there is one of the two
	bar     *mpb.Bar
	lines   *lines // where no bar can be drawn
}

// begin puts the bar on the screen.
func (b *bar) begin(terminal *os.File) {
	s := b.screen
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bars == nil {
		s.bars = mpb.New(mpb.WithOutput(terminal))
	}
	_, total := b.account.done()
	style := mpb.BarFillerBuilder(mpb.BarStyle())
	if total == 0 {
		style = mpb.NopStyle()
	}
	added, err := s.bars.Add(0, style.Build(),
		mpb.BarWidth(barWidth),
		mpb.BarFillerMiddleware(b.fill),
		mpb.PrependDecorators(decor.Any(func(decor.Statistics) string { return b.account.head() })),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return b.account.pace() })),
		mpb.BarBtmExtender(mpb.BarFillerFunc(b.below)),
	)
	if err != nil { // those that there are can't be drawn any more
		b.lines = showLines(s.w, b.account.run)
		return
	}
	b.bar = added
	s.shown++
}

func (b *bar) fill(base mpb.BarFiller) mpb.BarFiller {
	return mpb.BarFillerFunc(func(w io.Writer, stat decor.Statistics) error {
		stat.Current, stat.Total = b.account.done()
		return base.Fill(w, stat)
	})
}

// below is the line below the bar.
func (b *bar) below(w io.Writer, stat decor.Statistics) error {
	_, err := io.WriteString(w, runewidth.Truncate("  "+b.account.details(), stat.AvailableWidth, "…")+"\n")
	return err
}

func (b *bar) end() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-b.begun
		if b.lines != nil {
			b.lines.end()
			return
		}
		b.bar.Abort(false) // it is drawn once more, and stays
		b.bar.Wait()
		b.screen.ended()
	}()
	waitFor(done)
}

// ended takes the bars off the screen, if that was the last one.
func (s *Screen) ended() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shown--; s.shown > 0 {
		return
	}
	s.bars.Wait()
	s.bars = nil
	if len(s.partial) > 0 {
		_, _ = s.w.Write(s.partial)
		s.partial = nil
	}
}

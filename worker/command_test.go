package worker

import (
	"io"
	"os"
	"syscall"
	"testing"

	"github.com/sandboxfn/sbx/internal/wire/wirepb"
	"github.com/stretchr/testify/assert"
	"google.golang.org/grpc"
)

// heard is a session that keeps what a command prints.
type heard struct {
	grpc.BidiStreamingServer[wirepb.CommandInput, wirepb.CommandOutput]
	text string
}

func (h *heard) Send(message *wirepb.CommandOutput) error {
	h.text += string(message.GetStdout())
	return nil
}

// terminal gives texts, and for empty ones its end.
type terminal []string

func (t *terminal) Read(p []byte) (int, error) {
	if len(*t) == 0 {
		return 0, io.ErrUnexpectedEOF // read too often
	}
	text := (*t)[0]
	*t = (*t)[1:]
	if text == "" {
		return 0, &os.PathError{Op: "read", Path: "/dev/ptmx", Err: syscall.EIO}
	}
	return copy(p, text), nil
}

// The kernel may tell a terminal's end before what was written last can be read.
func TestATerminalIsReadToItsEnd(t *testing.T) {
	from, to := terminal{"first ", "", "last", "", "", "never"}, &heard{}
	(&outputs{stream: to}).copy(&from, asStdout)
	assert.Equal(t, "first last", to.text)
	assert.Equal(t, terminal{"never"}, from)
}

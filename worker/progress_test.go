package worker

import (
	"io"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sandboxfn/sbx/internal/wire"
	"github.com/sandboxfn/sbx/internal/wire/wirepb"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// open is a session that takes everything at once.
type open struct{ frames chan *wirepb.Frame }

func (o *open) Send(frame *wirepb.Frame) error {
	o.frames <- frame
	return nil
}

func (o *open) Recv() (*wirepb.Frame, error) { return nil, io.EOF }

// told returns the progress that has arrived.
func (o *open) told() (told []*wirepb.Progress) {
	for {
		select {
		case frame := <-o.frames:
			for _, message := range frame.GetMessages() {
				told = append(told, message.GetProgress())
			}
		default:
			return told
		}
	}
}

// The first is sent at once, the latest ten times a second, and the last one at the end.
func TestProgressIsSentNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		session := &open{make(chan *wirepb.Frame, 1000)}
		conn := wire.NewConn(session, nil)
		c := &call{dispatch: &dispatch{conn: conn}, message: &wirepb.Call{Id: 7}}
		c.Progress(0, 1000, "begin")
		synctest.Wait()
		told := session.told()
		require.Len(t, told, 1)
		assert.Equal(t, "begin", told[0].GetNote())
		assert.EqualValues(t, 7, told[0].GetCall())
		for i := range 1000 { // in a second
			c.Progress(int64(i+1), 1000, strconv.Itoa(i+1))
			time.Sleep(time.Millisecond)
		}
		synctest.Wait()
		told = session.told()
		assert.InDelta(t, 10, len(told), 1)
		for i, p := range told {
			assert.InDelta(t, (i+1)*100, p.GetDone(), 2, "the latest")
		}
		c.Progress(-5, -6, strings.Repeat("x", 1<<20)+"\xff")
		c.progress.end(c)
		c.Progress(9, 9, "too late")
		synctest.Wait()
		time.Sleep(time.Second)
		synctest.Wait()
		told = session.told()
		require.Len(t, told, 1, "the last one")
		assert.Zero(t, told[0].GetDone())
		assert.Zero(t, told[0].GetTotal())
		assert.Len(t, told[0].GetNote(), wire.MaxNote)
		conn.Close()
		<-conn.Stopped()
	})
}

// Where the connection is busy the latest is sent later, and the function does not wait.
func TestProgressDoesNotWaitForTheStream(t *testing.T) {
	session := &slow{make(chan struct{}), make(chan *wirepb.Frame, 100)}
	conn := wire.NewConn(session, nil)
	var calls []*call
	for i := range 5000 { // more than are taken
		c := &call{dispatch: &dispatch{conn: conn}, message: &wirepb.Call{Id: uint64(i + 1)}}
		calls = append(calls, c)
		c.Progress(1, 2, strings.Repeat("x", 1000))
		c.Progress(2, 2, "done")
	}
	close(session.release)
	for _, c := range calls {
		c.progress.end(c)
	}
	last := map[uint64]int64{}
	for done := 0; done < len(calls); {
		for _, message := range (<-session.frames).GetMessages() {
			p := message.GetProgress()
			if last[p.GetCall()] = p.GetDone(); p.GetDone() == 2 {
				done++
			}
		}
	}
	for _, done := range last {
		assert.EqualValues(t, 2, done)
	}
	conn.Close()
	<-conn.Stopped()
}

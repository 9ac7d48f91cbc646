package sbx

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/sandboxfn/sbx/internal/wire/wirepb"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// scripted answers requests by a script, whatever they are.
type scripted struct {
	grpc.ClientStream
	replies []*wirepb.FileReply
	sent    int
}

func (s *scripted) Send(*wirepb.FileRequest) error {
	s.sent++
	return nil
}

func (s *scripted) Recv() (*wirepb.FileReply, error) {
	if len(s.replies) == 0 {
		return nil, io.EOF
	}
	reply := s.replies[0]
	s.replies = s.replies[1:]
	return reply, nil
}

func scriptedFile(replies ...*wirepb.FileReply) *File {
	ctx, cancel := context.WithCancel(context.Background())
	return &File{sandbox: &Sandbox{id: "s-1"}, running: &sandbox{}, name: "file", open: &wirepb.Open{Read: true, Write: true}, ctx: ctx, end: cancel, stream: &scripted{replies: replies}}
}

func data(text string, more, end bool) *wirepb.FileReply {
	return &wirepb.FileReply{Kind: &wirepb.FileReply_Data{Data: &wirepb.Piece{Data: []byte(text), More: more, End: end}}}
}

func closedReply(size int64, sum uint32) *wirepb.FileReply {
	return &wirepb.FileReply{Kind: &wirepb.FileReply_Closed{Closed: &wirepb.Closed{Size: size, Crc32C: sum}}}
}

func TestAHostileSandboxsFile(t *testing.T) {
	n, err := scriptedFile(data("too much", false, false)).ReadAt(make([]byte, 3), 0)
	require.ErrorContains(t, err, "more than was asked for")
	assert.Zero(t, n)

	_, err = scriptedFile(data("", true, false)).Read(make([]byte, 3))
	require.ErrorContains(t, err, "an empty piece")

	f := scriptedFile(&wirepb.FileReply{Kind: &wirepb.FileReply_Done{Done: true}})
	_, err = f.Read(make([]byte, 3))
	require.ErrorContains(t, err, "not asked for")
	_, again := f.Read(make([]byte, 3))
	require.EqualError(t, again, err.Error(), "it is of no use any more")
	require.Error(t, f.Close())

	_, err = scriptedFile().Stat()
	require.ErrorContains(t, err, "without an answer")

	f = scriptedFile(&wirepb.FileReply{Kind: &wirepb.FileReply_Failure{Failure: &wirepb.Failure{Op: "read", Path: []byte("\xff\n"), Text: bytes.Repeat([]byte("x"), 1<<20), Kind: 99}}})
	_, err = f.Read(make([]byte, 3))
	require.Error(t, err)
	assert.Less(t, len(err.Error()), 8<<10)
	var path *fs.PathError
	require.ErrorAs(t, err, &path)
	assert.Equal(t, "file", path.Path, "the caller's path, whatever the sandbox says")
}

// FuzzFile: whatever a sandbox answers, a file returns, gives no more than was asked for, and no data of a file that it says is damaged.
func FuzzFile(f *testing.F) {
	add := func(replies ...*wirepb.FileReply) {
		var script []byte
		for _, reply := range replies {
			one, err := proto.Marshal(reply)
			require.NoError(f, err)
			script = append(append(script, byte(len(one))), one...)
		}
		f.Add(script, []byte{0, 1, 2, 3, 4, 5})
	}
	add(data("hello", true, false), data("world", false, true), closedReply(10, 1))
	add(data("", false, true), closedReply(0, 0))
	add(&wirepb.FileReply{Kind: &wirepb.FileReply_Info{Info: &wirepb.Info{Size: -1}}})
	f.Fuzz(func(t *testing.T, script, ops []byte) {
		var replies []*wirepb.FileReply
		for len(script) > 1 && len(replies) < 100 {
			n := min(int(script[0]), len(script)-1)
			reply := &wirepb.FileReply{}
			if proto.Unmarshal(script[1:1+n], reply) == nil {
				replies = append(replies, reply)
			}
			script = script[1+n:]
		}
		file := scriptedFile(replies...)
		buffer := make([]byte, 7)
		for _, op := range ops[:min(len(ops), 100)] {
			var n int
			var err error
			switch op % 8 {
			case 0:
				n, err = file.Read(buffer)
			case 1:
				n, err = file.ReadAt(buffer, int64(op))
			case 2:
				n, err = file.Write(buffer)
			case 3:
				_, err = file.Seek(-int64(op), int(op)%4)
			case 4:
				_, err = file.Stat()
			case 5:
				err = file.Truncate(int64(op))
			case 6:
				err = file.Sync()
			case 7:
				err = file.Close()
			}
			assert.LessOrEqual(t, n, len(buffer))
			assert.GreaterOrEqual(t, n, 0)
			if err != nil && !errors.Is(err, io.EOF) {
				require.ErrorAs(t, err, new(*SandboxError))
			}
		}
	})
}

// 10 GiB of nothing took a round trip for each piece.
func TestAHoleIsToldAsAWhole(t *testing.T) {
	done := &wirepb.FileReply{Kind: &wirepb.FileReply_Done{Done: true}}
	f := scriptedFile(done, done, done)
	stream := f.stream.(*scripted)
	zeros := make([]byte, filePiece)
	for range maxHole/filePiece + 10 {
		require.NoError(t, f.extend(zeros))
	}
	assert.Equal(t, 1, stream.sent, "a hole that is long is told of meanwhile")
	require.NoError(t, f.extend([]byte("x")))
	assert.Equal(t, 3, stream.sent, "the rest of the hole, and what follows")
	require.NoError(t, f.extend(zeros))
	require.NoError(t, f.endHole())
	require.NoError(t, f.endHole())
	assert.Equal(t, 4, stream.sent, "one at the end")
	assert.EqualValues(t, maxHole+11*filePiece+1, f.written)
}

func TestLinksThatLeadOut(t *testing.T) {
	for _, c := range []struct{ name, to string }{
		{"a", "b"}, {"a", "./b/c"}, {"d/a", "../b"}, {"d/e/a", "../../b/c"}, {"d/a", ".."}, {"a", "."}, {"a", "b//c"},
	} {
		assert.Empty(t, leadsOut(c.name, c.to), "%q in %q", c.to, c.name)
	}
	for _, c := range []struct{ name, to string }{
		{"a", ".."}, {"a", "../b"}, {"d/a", "../.."}, {"d/a", "../../b"}, {"a", "/etc"}, {"a", ""}, {"a", "b/.."}, {"d/e/a", "../b/../.."},
		{"a", `..\b`}, {"a", `C:\`}, {"a", "b\x00"}, {"a", "./../b"},
	} {
		assert.NotEmpty(t, leadsOut(c.name, c.to), "%q in %q", c.to, c.name)
	}
}

func TestWhatArrivesDamagedIsAnError(t *testing.T) {
	for name, c := range map[string]struct {
		closed *wirepb.FileReply
		want   string
	}{
		"checksum": {closedReply(5, 1), "arrived"},
		"length":   {closedReply(6, 0x9a71bb4c), "arrived"},
		"whole":    {closedReply(5, 0x9a71bb4c), ""},
	} {
		to, err := os.Create(filepath.Join(t.TempDir(), "to"))
		require.NoError(t, err)
		err = newDownload(nil, nil, "").content(scriptedFile(data("hello", false, true), c.closed), to, "to")
		if c.want == "" {
			require.NoError(t, err, name)
		} else {
			require.ErrorContains(t, err, c.want, name)
		}
		require.NoError(t, to.Close())
	}
	to, err := os.Create(filepath.Join(t.TempDir(), "to"))
	require.NoError(t, err)
	down := newDownload(nil, nil, "")
	down.rest.Store(3)
	require.ErrorIs(t, down.content(scriptedFile(data("hello", false, true)), to, "to"), ErrFileTooLong)
	require.NoError(t, to.Close())
}

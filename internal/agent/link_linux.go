package agent

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"
)

// dialTime bounds the dialling of a socket, which is on the same machine.
const dialTime = 5 * time.Second

// link is how this process talks with the driver. One goroutine receives, and one sends.
type link interface {
	// receive returns the next request, and the worker's ends of its streams if it is to start: in the order of ConnFile and so on, nil for what there is none of. An
	// error means that the driver is gone.
	receive() (Request, []*os.File, error)
	send(event Event) error
}

// connect finds the driver.
func connect(boot Boot) (link, error) {
	if boot.Listen != nil {
		conn, err := listen(*boot.Listen)
		if err != nil {
			return nil, err
		}
		return newStreams(conn, boot.Token)
	}
	if boot.Socket != "" {
		dialer := net.Dialer{Timeout: dialTime}
		if conn, err := dialer.Dial("unix", boot.Socket); err == nil {
			_, err := io.WriteString(conn, Hello(boot.Token))
			return &socket{conn: conn.(*net.UnixConn)}, err
		}
		// The folder is one of another machine, or who confines this process forbids it.
	}
	stdio, err := takeStdio()
	if err != nil {
		return nil, err
	}
	return newStreams(stdio, boot.Token)
}

// socket is the first way.
type socket struct {
	conn  *net.UnixConn
	files []*os.File // that have come
}

// Read keeps the descriptors that come with what it reads. Those that nobody asked for are closed by the kernel, with this process at the latest.
func (s *socket) Read(p []byte) (int, error) {
	rights := make([]byte, unix.CmsgSpace(Files*4))
	n, size, _, _, err := s.conn.ReadMsgUnix(p, rights)
	if size > 0 {
		messages, _ := unix.ParseSocketControlMessage(rights[:size])
		for _, message := range messages {
			descriptors, _ := unix.ParseUnixRights(&message)
			for _, descriptor := range descriptors {
				s.files = append(s.files, os.NewFile(uintptr(descriptor), "passed"))
			}
		}
	}
	if n == 0 && err == nil && len(p) > 0 {
		err = io.EOF
	}
	return n, err
}

func (s *socket) receive() (request Request, files []*os.File, err error) {
	err = Read(s, MaxRequest, &request)
	files, s.files = s.files, nil
	if err == nil && request.Start != nil && len(files) != Files {
		err = fmt.Errorf("a request to start came with %d descriptors, not %d", len(files), Files)
	}
	return request, files, err
}

func (s *socket) send(event Event) error { return Write(s.conn, event) }

// streams is the second way.
type streams struct {
	control net.Conn
	others  [Streams]net.Conn
}

func newStreams(over io.ReadWriteCloser, token string) (*streams, error) {
	if _, err := io.WriteString(over, Hello(token)); err != nil {
		return nil, err
	}
	session, err := yamux.Server(Joined(over), Multiplexing())
	if err != nil {
		return nil, err
	}
	var s streams
	for i := range s.others {
		if s.others[i], err = session.Accept(); err != nil {
			return nil, fmt.Errorf("the driver is gone: %w", err)
		}
	}
	s.control = s.others[ControlStream]
	return &s, nil
}

func (s *streams) send(event Event) error { return Write(s.control, event) }

func (s *streams) receive() (request Request, files []*os.File, err error) {
	if err := Read(s.control, MaxRequest, &request); err != nil || request.Start == nil {
		return request, nil, err
	}
	files, err = s.relay()
	return request, files, err
}

// relay makes the worker's streams and joins them with those of the driver. The goroutines end with the process.
func (s *streams) relay() ([]*os.File, error) {
	files := make([]*os.File, Files)
	for file, stream := range map[int]int{ConnFile: ConnStream, DirectFile: DirectStream} {
		ours, theirs, err := socketPair()
		if err != nil {
			return nil, err
		}
		relayConn(ours, s.others[stream])
		files[file] = theirs
	}
	for file, stream := range map[int]int{HandshakeFile: HandshakeStream, StdoutFile: StdoutStream, StderrFile: StderrStream} {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		relayOutput(r, s.others[stream])
		files[file] = w
	}
	return files, nil
}

// relayConn carries bytes both ways. When the driver has closed its end, the worker's is closed; and when the worker has, the driver reads the end.
func relayConn(worker, driver net.Conn) {
	go func() {
		_, _ = io.Copy(worker, driver)
		_ = worker.Close()
	}()
	go func() {
		_, _ = io.Copy(driver, worker)
		_ = driver.Close()
	}()
}

// relayOutput carries what the worker writes. When the driver closes its end, whoever writes meets a broken pipe.
func relayOutput(worker *os.File, driver net.Conn) {
	go func() {
		_, _ = io.Copy(driver, worker)
		_ = driver.Close()
	}()
	go func() {
		_, _ = io.Copy(io.Discard, driver)
		_ = worker.Close()
	}()
}

// stdio is what standard input and output were.
type stdio struct{ in, out *os.File }

func (s stdio) Read(p []byte) (int, error) { return s.in.Read(p) }

func (s stdio) Write(p []byte) (int, error) { return s.out.Write(p) }

func (s stdio) Close() error { return errors.Join(s.in.Close(), s.out.Close()) }

// takeStdio takes standard input and output away from whatever else this process has: what is printed goes to standard error.
func takeStdio() (stdio, error) {
	var taken [2]*os.File
	for i := range taken {
		descriptor, err := unix.FcntlInt(uintptr(i), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return stdio{}, os.NewSyscallError("fcntl", err)
		}
		taken[i] = os.NewFile(uintptr(descriptor), "stdio")
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return stdio{}, err
	}
	defer func() { _ = null.Close() }()
	if err := errors.Join(unix.Dup3(int(null.Fd()), 0, 0), unix.Dup3(2, 1, 0)); err != nil {
		return stdio{}, os.NewSyscallError("dup3", err)
	}
	return stdio{taken[0], taken[1]}, nil
}

// socketPair returns the two ends of a byte stream.
func socketPair() (net.Conn, *os.File, error) {
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "driver"), os.NewFile(uintptr(pair[1]), "worker")
	defer func() { _ = ours.Close() }() // FileConn duplicates it
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return conn, theirs, nil
}

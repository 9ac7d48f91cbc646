//go:build !sbxworker

package kubernetes

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"

	"github.com/sandboxfn/sbx/driver/kubernetes/internal/forward"
)

// workerFile is what is sent to pods. It is read from the file that was opened, whatever becomes of its path.
type workerFile struct {
	file   *os.File
	size   int64
	sum    string // SHA-256, in hexadecimal
	packed func() ([]byte, error)
}

func openWorker(path string) (*workerFile, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	w := &workerFile{file: file}
	hash := sha256.New()
	if w.size, err = io.Copy(hash, file); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	w.sum = hex.EncodeToString(hash.Sum(nil))
	// It takes a third of the bytes, and is compressed once, when the first pod asks for it.
	w.packed = sync.OnceValues(func() ([]byte, error) {
		var packed bytes.Buffer
		packer, err := gzip.NewWriterLevel(&packed, gzip.BestSpeed)
		if err != nil {
			return nil, err
		}
		_, err = io.Copy(packer, io.NewSectionReader(file, 0, w.size))
		if err := errors.Join(err, packer.Close()); err != nil {
			return nil, err
		}
		return bytes.Clone(packed.Bytes()), nil // without the room that is left in the buffer
	})
	return w, nil
}

// uploads is how often the worker is sent to a pod where it does not arrive whole, or whose way to it is refused by a busy server: with pauses as in
// retry, for some three seconds.
const uploads = 7

// sendWorker sends the worker to a container that waits for it.
func (s *session) sendWorker(ctx context.Context, pod, container string) error {
	packed, err := s.worker.packed()
	if err != nil {
		return fmt.Errorf("compress the worker: %w", err)
	}
	var pause pauses
	for try := range uploads {
		if try > 0 && !pause.wait(ctx) {
			return context.Cause(ctx)
		}
		var told string
		told, err = s.exec(ctx, pod, container, bytes.NewReader(packed), shell, "-c", upload, "sbx", s.worker.sum)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if told != "" {
			err = fmt.Errorf("%w: %s", err, told)
		}
		if forward.NotAllowed(err) { // else it may be about the pod as it is at this moment
			break
		}
	}
	return fmt.Errorf("send the worker, %d bytes, to pod %s/%s: %w", s.worker.size, s.namespace, pod, err)
}

// exec runs a program in a container and returns what it prints.
func (s *session) exec(ctx context.Context, pod, container string, stdin io.Reader, command ...string) (string, error) {
	request := s.client.CoreV1().RESTClient().Post().Resource("pods").Namespace(s.namespace).Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: container, Command: command, Stdin: true, Stdout: true, Stderr: true}, scheme.ParameterCodec)
	websocket, err := remotecommand.NewWebSocketExecutor(s.config, "GET", request.URL().String())
	if err != nil {
		return "", err
	}
	spdy, err := remotecommand.NewSPDYExecutor(s.config, "POST", request.URL())
	if err != nil {
		return "", err
	}
	var stdout, stderr beginning // not one for both, or output is lost
	streams := remotecommand.StreamOptions{Stdin: stdin, Stdout: &stdout, Stderr: &stderr}
	if err = websocket.StreamWithContext(ctx, streams); err != nil && forward.NoWebsocket(err) {
		err = forward.WithoutWebsocket(err, spdy.StreamWithContext(ctx, streams))
	}
	return strings.TrimSpace(string(stdout) + string(stderr)), err
}

// maxTold is the most of a program's output that is kept: it is a sandbox's word.
const maxTold = 4 << 10

// beginning keeps what is written first.
type beginning []byte

func (b *beginning) Write(p []byte) (int, error) {
	*b = append(*b, p[:min(len(p), maxTold-len(*b))]...)
	return len(p), nil
}

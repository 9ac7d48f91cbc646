package kubernetes

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/client-go/util/exec"
)

// uploads is how often the worker is sent to a pod where it does not arrive whole.
const uploads = 3

// sendWorker sends the worker to a container that waits for it.
func (s *session) sendWorker(ctx context.Context, pod, container string) error {
	var err error
	for range uploads {
		worker := io.NewSectionReader(s.worker, 0, s.size)
		var told string
		told, err = s.exec(ctx, pod, container, worker, shell, "-c", upload, "sbx", s.sum)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if told != "" {
			err = fmt.Errorf("%w: %s", err, told)
		}
		if _, ended := errors.AsType[utilexec.CodeExitError](err); !ended {
			break
		}
	}
	return fmt.Errorf("send the worker, %d bytes, to pod %s/%s: %w", s.size, s.namespace, pod, err)
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
	executor, err := remotecommand.NewFallbackExecutor(websocket, spdy, noWebsocket)
	if err != nil {
		return "", err
	}
	var stdout, stderr bytes.Buffer // not one for both, or output is lost
	err = executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: stdin, Stdout: &stdout, Stderr: &stderr})
	return strings.TrimSpace(stdout.String() + stderr.String()), err
}

//go:build !sbxworker

package docker

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/moby/client"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/drivertest"
	"github.com/sandboxfn/sbx/worker"
)

func TestMain(m *testing.M) {
	if os.Getenv(registryVariable) != "" {
		fmt.Fprintln(os.Stderr, serveRegistry())
		os.Exit(1)
	}
	if socket := os.Getenv(sshVariable); socket != "" && filepath.Base(os.Args[0]) == "ssh" {
		if err := playSSH(socket); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// imagesVariable asks for the tests that need an engine. Its value names two images that it has, separated by a comma.
const imagesVariable = "SBX_TEST_DOCKER"

// testImages are two images of the engine. Tests that call it are skipped unless they were asked for, and fail where there is no engine then.
func testImages(t testing.TB) (image, other string) {
	value := os.Getenv(imagesVariable)
	if value == "" {
		t.Skip("it needs an engine; run make test-docker")
	}
	image, other, ok := strings.Cut(value, ",")
	require.True(t, ok, "%s has the names of two images", imagesVariable)
	return image, other
}

// byStream is the driver as it is where sockets don't reach.
func byStream(opts *Options) driver.Driver {
	d := New(opts).(dockerDriver)
	d.streams = true
	return d
}

// ways are the ways to reach sandboxes.
var ways = map[string]func(*Options) driver.Driver{"socket": New, "stream": byStream}

func TestDriver(t *testing.T) {
	image, other := testImages(t)
	for name, driver := range ways {
		t.Run(name, func(t *testing.T) {
			drivertest.Run(t, driver(&Options{Image: image}), drivertest.Features{
				Processes: true, Isolation: true, Mounts: true, WritableMounts: true, Image: other,
			})
			nothingLeft(t, "drivertest")
		})
	}
}

// testEngine is for looking at what is there.
func testEngine(t *testing.T) *client.Client {
	api, err := client.New(client.FromEnv)
	require.NoError(t, err)
	t.Cleanup(func() { _ = api.Close() })
	return api
}

// nothingLeft checks that no container of a session is there.
func nothingLeft(t *testing.T, session string) {
	t.Helper()
	list, err := testEngine(t).ContainerList(context.Background(), client.ContainerListOptions{All: true, Filters: filter("label", labelSession+"="+session)})
	require.NoError(t, err)
	assert.Empty(t, list.Items)
}

// openTest opens a session and closes it at the test's end.
func openTest(t *testing.T, d driver.Driver, id string) driver.Session {
	session, err := d.Open(t.Context(), driver.SessionSpec{
		ID: id, Worker: func(context.Context, driver.Platform) (string, error) { return worker.Executable() },
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	require.NoError(t, err)
	t.Cleanup(func() {
		assert.NoError(t, session.Close(context.Background()))
		nothingLeft(t, id)
	})
	return session
}

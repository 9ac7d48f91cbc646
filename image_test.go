package sbx_test

import (
	"context"
	"runtime"
	"sync"
	"testing"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/inprocess"
	"github.com/sandboxfn/sbx/sbxtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// picturing notes which images sandboxes were asked to have.
type picturing struct {
	driver.Driver
	mu    sync.Mutex
	asked []string
}

type picturingSession struct {
	driver.Session
	driver *picturing
}

func (d *picturing) Open(ctx context.Context, spec driver.SessionSpec) (driver.Session, error) {
	session, err := d.Driver.Open(ctx, spec)
	return picturingSession{session, d}, err
}

func (s picturingSession) Create(ctx context.Context, spec driver.Spec) (driver.Sandbox, error) {
	s.driver.mu.Lock()
	s.driver.asked = append(s.driver.asked, spec.Image)
	s.driver.mu.Unlock()
	spec.Image = ""
	return s.Session.Create(ctx, spec)
}

func TestFunctionsWithOtherImagesRunInOtherSandboxes(t *testing.T) {
	d := &picturing{Driver: inprocess.New(nil)}
	session := sbxtest.Open(t, sbx.Driver(d), sbx.MaxSandboxes(3), sbx.Image("debian:12"))
	for _, opts := range [][]sbx.FunctionOption{nil, {sbx.Image("alpine:3")}, {sbx.Image("debian:12")}} {
		_, err := session.Function(Double, opts...).Call(t.Context(), 1)
		require.NoError(t, err)
	}
	assert.Equal(t, []string{"debian:12", "alpine:3"}, d.asked)
}

func TestDriversWithoutImagesRefuseThem(t *testing.T) {
	session := sbxtest.Open(t)
	_, err := session.Function(Double, sbx.Image("debian:12")).Call(t.Context(), 1)
	var wrong *driver.ImageError
	require.ErrorAs(t, err, &wrong)
	assert.Equal(t, "debian:12", wrong.Image)
	assert.ErrorContains(t, err, "leave the image out")
}

func TestDriverFromEnv(t *testing.T) {
	good := map[string]string{"process": "process"}
	if runtime.GOOS == "linux" {
		good["local"], good["local:?gvisor=false&scratch-mib=64"] = "local", "local"
	}
	for text, want := range good {
		t.Setenv(sbx.DriverVariable, text)
		session, err := sbx.Open(t.Context(), sbx.DriverFromEnv())
		require.NoError(t, err, text)
		assert.Equal(t, want, session.Report().Driver)
		require.NoError(t, session.Close())
	}
	for text, want := range map[string]string{
		"nope": `DriverFromEnv has a wrong SBX_DRIVER: no driver "nope"`, "process:?x=1": "no parameters", "local:?gvisor=perhaps": `parameter "gvisor"`,
		"local:?x=1": "no such parameter", "local://host": "on this machine",
	} {
		t.Setenv(sbx.DriverVariable, text)
		_, err := sbx.Open(t.Context(), sbx.DriverFromEnv())
		var option *sbx.OptionError
		require.ErrorAs(t, err, &option, text)
		assert.ErrorContains(t, err, want)
	}
	t.Setenv(sbx.DriverVariable, "")
	session := sbxtest.Open(t, sbx.DriverFromEnv())
	assert.Equal(t, "inprocess", session.Report().Driver, "without the variable another option counts")
}

package drivertest

import (
	"errors"

	"github.com/sandboxfn/sbx/driver"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// images asks for the image that there is, or for any where the driver has none.
func (s *suite) images() {
	image := s.has.Image
	if image == "" {
		s.imageRefused("debian:12")
		return
	}
	sandbox, err := s.session.Create(s.ctx, driver.Spec{ID: "drivertest-image", Image: image})
	require.NoError(s, err)
	w, _ := s.launch(sandbox)
	want := []byte("from another image")
	assert.Equal(s, want, result[[]byte](s, "echo", call(s, w, "echo", want)))
}

func (s *suite) noImage() {
	s.imageRefused("sandboxfn.invalid/no-such-image:1")
	s.imageRefused("No Image At All")
}

func (s *suite) imageRefused(image string) {
	sandbox, err := s.session.Create(s.ctx, driver.Spec{ID: "drivertest-image", Image: image})
	if err == nil {
		_ = sandbox.Stop(s.ctx)
	}
	wrong, ok := errors.AsType[*driver.ImageError](err)
	require.True(s, ok, "%v", err)
	assert.Equal(s, s.driver.Name(), wrong.Driver)
	assert.Equal(s, image, wrong.Image)
	assert.NotEmpty(s, wrong.Remedies)
}

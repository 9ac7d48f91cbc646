//go:build !sbxworker

package docker_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sandboxfn/sbx"
	"github.com/sandboxfn/sbx/driver"
	"github.com/sandboxfn/sbx/driver/docker"
	"github.com/sandboxfn/sbx/driver/local"
)

// BenchmarkCall is what the two ways to reach sandboxes cost, beside local sandboxes.
func BenchmarkCall(b *testing.B) {
	image, _ := docker.TestImages(b)
	drivers := map[string]driver.Driver{"local": local.New(nil)}
	for name, way := range docker.Ways {
		drivers[name] = way(&docker.Options{Image: image})
	}
	for name, d := range drivers {
		b.Run(name, func(b *testing.B) {
			session, err := sbx.Open(b.Context(), sbx.Driver(d))
			require.NoError(b, err)
			defer session.Close()
			double := session.Function2(Double)
			_, err = double.Call(b.Context(), 1, 0)
			require.NoError(b, err)
			for b.Loop() {
				if _, err := double.Call(b.Context(), 1, 0); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

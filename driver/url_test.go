package driver_test

import (
	"context"
	"errors"
	"net/url"
	"testing"

	"github.com/sandboxfn/sbx/driver"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

type named struct{ name string }

func (d named) Name() string { return d.name }

func (named) Open(context.Context, driver.SessionSpec) (driver.Session, error) {
	return nil, errors.ErrUnsupported
}

func TestDriversAreFoundByURL(t *testing.T) {
	driver.Register("plain", driver.Plain(func() driver.Driver { return named{"plain"} }))
	driver.Register("rich", func(u *url.URL) (driver.Driver, error) { return named{u.Host + u.Query().Get("x")}, nil })
	assert.Panics(t, func() { driver.Register("rich", nil) })

	for text, want := range map[string]string{"plain": "plain", "plain:": "plain", "rich://host?x=1": "host1", "rich:?x=2": "2", "rich": ""} {
		d, err := driver.FromURL(text)
		require.NoError(t, err, text)
		assert.Equal(t, want, d.Name(), text)
	}
	for text, want := range map[string]string{
		"plain:?x=1": "no parameters", "plain://u:secret@host": "u:xxxxx@host", "plain://u:p%ss@host": "a driver's URL: invalid", "nope": `no driver "nope" is part of this program, which has plain, rich`, "": "URL", "%:": "URL", ":": "URL",
		"rich?x=1": "write rich:?", "rich?x=debian:12": "write rich:?",
	} {
		_, err := driver.FromURL(text)
		assert.ErrorContains(t, err, want, text)
	}
}

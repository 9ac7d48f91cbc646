package driver_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/sandboxfn/sbx/driver"
)

// stoppable is stopped when all of them are being stopped.
type stoppable struct {
	driver.Sandbox
	err     error
	arrived chan struct{}
	all     chan struct{}
}

func (s stoppable) Stop(context.Context) error {
	s.arrived <- struct{}{}
	<-s.all
	return s.err
}

func TestStopAll(t *testing.T) {
	first, second := errors.New("first"), errors.New("second")
	arrived, all := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(all)
		for range 3 {
			<-arrived
		}
	}()
	err := driver.StopAll(t.Context(), []stoppable{{err: first, arrived: arrived, all: all}, {arrived: arrived, all: all}, {err: second, arrived: arrived, all: all}})
	assert.ErrorIs(t, err, first)
	assert.ErrorIs(t, err, second)
	assert.NoError(t, driver.StopAll(t.Context(), []stoppable{}))
}

package pool

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestSpareKeepsNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &yard{openTime: time.Second}
		p := y.pool(3)
		a := lease(t, p, "x")
		l, opening := p.Spare("x", a.box)
		assert.Nil(t, l, "there is room, so one more is begun")
		require.NotNil(t, opening)
		<-opening
		l, opening = p.Spare("x", a.box)
		require.NotNil(t, l)
		assert.Nil(t, opening)
		assert.NotSame(t, a.box, l.Member())
		c := lease(t, p, "x")
		none, opening := p.Spare("x", a.box)
		assert.Nil(t, none, "all are busy, and there is no room")
		assert.Nil(t, opening)
		c.release(true)
		none, _ = p.Spare("x", c.box)
		assert.Nil(t, none, "it must be another one")
		turn := p.Queue("y", false) // it will make room of c
		none, _ = p.Spare("x", a.box)
		assert.Nil(t, none, "somebody waits")
		waited, err := turn.Wait(t.Context())
		require.NoError(t, err)
		waited.Release(true)
		l.Release(true)
		a.release(true)
		require.NoError(t, p.Close())
		none, opening = p.Spare("x", a.box)
		assert.Nil(t, none)
		assert.Nil(t, opening, "it is closed")
		assert.Zero(t, y.alive)
	})
}

func TestASpareThatCantBeMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &yard{}
		p := y.pool(2)
		a := lease(t, p, "x")
		y.mu.Lock()
		y.openErr = errors.New("no room")
		y.mu.Unlock()
		_, opening := p.Spare("x", a.box)
		require.NotNil(t, opening)
		<-opening
		made := y.opened()
		_, opening = p.Spare("x", a.box)
		assert.Nil(t, opening, "not at once again")
		assert.Equal(t, made, y.opened())
		a.release(true)
		require.NoError(t, p.Close())
	})
}

package main

import (
	"context"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var (
	good = Job{LearningRate: 0.01, Hidden: 8, Epochs: 50, Seed: 1}
	bad  = Job{LearningRate: 3, Hidden: 8, Epochs: 50, Seed: 1}
)

// The function is an ordinary one, and tested as such: no session, no sandbox.
func TestTrain(t *testing.T) {
	report, err := Train(t.Context(), good)
	require.NoError(t, err)
	assert.Greater(t, report.TrainAccuracy, 0.85)
	assert.Greater(t, report.ValidationAccuracy, 0.8, "half of the penguins are male: guessing has 0.5")
	assert.Less(t, report.Loss, 0.3)

	again, err := Train(t.Context(), good)
	require.NoError(t, err)
	assert.Equal(t, report, again)
}

func TestTrainDiverges(t *testing.T) {
	_, err := Train(t.Context(), bad)
	require.ErrorIs(t, err, ErrDiverged)
	assert.ErrorContains(t, err, "in epoch")
}

func TestTrainRefusesNonsense(t *testing.T) {
	for name, change := range map[string]func(*Job){
		"no rate":       func(j *Job) { j.LearningRate = 0 },
		"a rate of NaN": func(j *Job) { j.LearningRate = math.NaN() },
		"no units":      func(j *Job) { j.Hidden = 0 },
		"no epochs":     func(j *Job) { j.Epochs = 0 },
	} {
		t.Run(name, func(t *testing.T) {
			job := good
			change(&job)
			_, err := Train(t.Context(), job)
			assert.ErrorContains(t, err, "must be positive")
			assert.NotErrorIs(t, err, ErrDiverged)
		})
	}
}

func TestTrainHeedsItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Train(ctx, good)
	assert.ErrorIs(t, err, context.Canceled)
}

// The gradient that learn steps along is the slope of the loss, measured.
func TestGradient(t *testing.T) {
	data, err := penguins()
	require.NoError(t, err)
	const step = 1e-6
	for _, p := range data.train[:20] {
		n := newNetwork(3, newRandom(7))
		weight := &n.hidden[1].in[2]
		at := *weight
		*weight = at + step
		above := n.learn(p, 0) // a rate of 0 learns nothing
		*weight = at - step
		below := n.learn(p, 0)
		*weight = at
		n.learn(p, 1)
		assert.InDelta(t, (above-below)/(2*step), at-*weight, 1e-4)
	}
}

func TestPenguins(t *testing.T) {
	all, err := readPenguins(penguinsCSV)
	require.NoError(t, err)
	require.Len(t, all, 333)
	assert.Equal(t, penguin{measured: [features]float64{39.1, 18.7, 181, 3750}, sex: 1}, all[0])

	data, err := penguins()
	require.NoError(t, err)
	assert.Len(t, data.validation, 111)
	require.Len(t, data.train, 222)
	for i, column := range columns {
		var sum, squares float64
		for _, p := range data.train {
			sum += p.measured[i]
			squares += p.measured[i] * p.measured[i]
		}
		assert.InDelta(t, 0, sum/222, 1e-9, column)
		assert.InDelta(t, 1, squares/222, 1e-9, column)
	}
}

func TestReadPenguinsNamesTheLine(t *testing.T) {
	header, _, _ := strings.Cut(penguinsCSV, "\n")
	for row, want := range map[string]string{
		"Adelie,Torgersen,39.1,18.7,181,3750,mal,2007":   "line 2: the sex",
		"Adelie,Torgersen,39.1,18.7,long,3750,male,2007": "line 2: strconv.ParseFloat",
		"Adelie,Torgersen": "wrong number of fields",
	} {
		_, err := readPenguins(header + "\n" + row + "\n")
		assert.ErrorContains(t, err, want)
	}
	_, err := readPenguins("")
	assert.ErrorContains(t, err, "empty")
	_, err = readPenguins("species,year\nAdelie,2007\n")
	assert.ErrorContains(t, err, "no column")
}

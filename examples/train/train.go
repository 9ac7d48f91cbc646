package main

import (
	"context"
	"errors"
	"fmt"
	"math"
)

// ErrDiverged is returned by Train when the loss grows instead of shrinking. It is the same value on both sides of the
// wire, so errors.Is finds it in the error of a call.
var ErrDiverged = errors.New("training diverged")

// Job is one setting of the hyper-parameters.
type Job struct {
	LearningRate float64
	Hidden       int // units in the hidden layer
	Epochs       int // passes over the training part
	Seed         uint64
}

// Report is how a network came out of its training.
type Report struct {
	Loss               float64 // mean cross entropy in the last epoch
	TrainAccuracy      float64
	ValidationAccuracy float64 // on penguins that it was not trained on
}

// explodedLoss is a loss from which training does not come back. Guessing costs ln 2, about 0.7.
const explodedLoss = 100

// Train fits a network to the penguins by stochastic gradient descent. The same job gives the same report, wherever it
// runs.
func Train(ctx context.Context, job Job) (Report, error) {
	if job.Hidden < 1 || job.Epochs < 1 || !(job.LearningRate > 0) {
		return Report{}, fmt.Errorf("job %+v: the learning rate, the hidden units and the epochs must be positive", job)
	}
	data, err := penguins()
	if err != nil {
		return Report{}, err
	}
	random := newRandom(job.Seed)
	net := newNetwork(job.Hidden, random)
	var loss float64
	for epoch := range job.Epochs {
		if err := ctx.Err(); err != nil {
			return Report{}, fmt.Errorf("stopped in epoch %d: %w", epoch, err)
		}
		loss = 0
		for _, i := range random.Perm(len(data.train)) {
			loss += net.learn(data.train[i], job.LearningRate) / float64(len(data.train))
		}
		if math.IsNaN(loss) || loss > explodedLoss {
			return Report{}, fmt.Errorf("%w: in epoch %d the loss was %.3g", ErrDiverged, epoch, loss)
		}
	}
	return Report{Loss: loss, TrainAccuracy: net.accuracy(data.train), ValidationAccuracy: net.accuracy(data.validation)}, nil
}

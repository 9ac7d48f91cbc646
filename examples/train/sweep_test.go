package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestSweep(t *testing.T) {
	s := sweep{}
	s.add(Job{LearningRate: 0.1, Hidden: 2, Seed: 1}, Report{Loss: 0.4, TrainAccuracy: 0.8, ValidationAccuracy: 0.7})
	s.add(Job{LearningRate: 0.1, Hidden: 2, Seed: 2}, Report{Loss: 0.2, TrainAccuracy: 1, ValidationAccuracy: 0.8})
	s.addDiverged(Job{LearningRate: 9, Hidden: 2})
	s.add(Job{LearningRate: 0.5, Hidden: 4}, Report{Loss: 0.1, TrainAccuracy: 1, ValidationAccuracy: 0.9})
	s.addDiverged(Job{LearningRate: 0.5, Hidden: 4})

	var out strings.Builder
	require.NoError(t, s.print(&out))
	assert.Equal(t, strings.TrimLeft(`
  LEARNING RATE  HIDDEN  VALIDATION  TRAINING   LOSS  DIVERGED
            0.5       4       90.0%    100.0%  0.100    1 of 2
            0.1       2       75.0%     90.0%  0.300    0 of 2
              9       2           -         -      -    1 of 1

5 runs, 2 of them diverged
`, "\n"), out.String())
}

func TestJobs(t *testing.T) {
	seen := map[Job]bool{}
	for job := range jobs(7) {
		assert.Equal(t, 7, job.Epochs)
		seen[job] = true
	}
	assert.Len(t, seen, 6*3*5)
}

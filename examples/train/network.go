package main

import (
	"math"
	"math/rand/v2"
)

// network is a perceptron with one hidden layer of rectified units and a softmax over the sexes.
type network struct {
	hidden []hiddenUnit
	bias   []float64 // of the outputs, one for each sex
}

type hiddenUnit struct {
	in   [features]float64
	bias float64
	out  []float64 // one for each sex
}

func newNetwork(hidden int, random *rand.Rand) *network {
	n := &network{hidden: make([]hiddenUnit, hidden), bias: make([]float64, len(sexes))}
	for i := range n.hidden {
		unit := hiddenUnit{out: make([]float64, len(sexes))}
		for j := range unit.in {
			unit.in[j] = random.NormFloat64() * math.Sqrt(2.0/features)
		}
		for k := range unit.out {
			unit.out[k] = random.NormFloat64() * math.Sqrt(2/float64(hidden))
		}
		n.hidden[i] = unit
	}
	return n
}

// forward returns each hidden unit's output and each sex's score.
func (n *network) forward(p penguin) (active, scores []float64) {
	active = make([]float64, len(n.hidden))
	scores = append(scores, n.bias...)
	for i, unit := range n.hidden {
		sum := unit.bias
		for j, x := range p.measured {
			sum += unit.in[j] * x
		}
		active[i] = max(sum, 0)
		for k, weight := range unit.out {
			scores[k] += weight * active[i]
		}
	}
	return active, scores
}

// learn takes one step of gradient descent and returns the cross entropy before it.
func (n *network) learn(p penguin, rate float64) (loss float64) {
	active, scores := n.forward(p)
	highest := scores[best(scores)]
	var sum float64
	for _, score := range scores {
		sum += math.Exp(score - highest)
	}
	for k, score := range scores {
		gradient := math.Exp(score-highest) / sum
		if k == p.sex {
			loss = math.Log(sum) - (score - highest)
			gradient--
		}
		scores[k] = gradient
	}
	for i := range n.hidden {
		unit := &n.hidden[i]
		var back float64
		for k, gradient := range scores {
			back += gradient * unit.out[k]
			unit.out[k] -= rate * gradient * active[i]
		}
		if active[i] <= 0 {
			continue
		}
		unit.bias -= rate * back
		for j, x := range p.measured {
			unit.in[j] -= rate * back * x
		}
	}
	for k, gradient := range scores {
		n.bias[k] -= rate * gradient
	}
	return loss
}

// accuracy is the share of penguins whose sex has the highest score.
func (n *network) accuracy(of []penguin) float64 {
	right := 0
	for _, p := range of {
		if _, scores := n.forward(p); best(scores) == p.sex {
			right++
		}
	}
	return float64(right) / float64(len(of))
}

// best is the index of the highest score.
func best(scores []float64) int {
	index := 0
	for k, score := range scores {
		if score > scores[index] {
			index = k
		}
	}
	return index
}

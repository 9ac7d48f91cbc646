package main

import (
	_ "embed"
	"encoding/csv"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// penguinsCSV is real: 344 penguins, measured at three islands of the Palmer Archipelago. README.md names the source. It is
// part of the program, so a sandbox has it without any file.
//
//go:embed penguins.csv
var penguinsCSV string

const features = 4

// What a network learns: a penguin's sex from its measurements. It isn't told the species, so that it can't just weigh:
// the females of one are heavier than the males of another.
var (
	columns = [features]string{"bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g"}
	sexes   = []string{"female", "male"}
)

// penguin is one row of the file.
type penguin struct {
	measured [features]float64
	sex      int // index in sexes
}

// split is the data set in two parts, each measurement with mean 0 and deviation 1 over the training part.
type split struct {
	train, validation []penguin
}

// penguins is the same split for every job, so that their accuracies compare: a third of the penguins,
// drawn once and for all, validates. It is read once in each sandbox.
var penguins = sync.OnceValues(func() (split, error) {
	all, err := readPenguins(penguinsCSV)
	if err != nil {
		return split{}, fmt.Errorf("penguins.csv: %w", err)
	}
	newRandom(0).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	third := len(all) / 3
	s := split{validation: all[:third], train: all[third:]}
	s.standardise()
	return s, nil
})

// newRandom is the same sequence wherever it runs.
func newRandom(seed uint64) *rand.Rand {
	return rand.New(rand.NewPCG(seed, 0))
}

// readPenguins leaves out the 11 penguins of which something is not known: the file has NA there.
func readPenguins(text string) ([]penguin, error) {
	rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		return nil, errors.New("the file is empty")
	}
	at := map[string]int{} // where each column is
	for i, column := range rows[0] {
		at[column] = i
	}
	for _, column := range append([]string{"sex"}, columns[:]...) {
		if _, ok := at[column]; !ok {
			return nil, fmt.Errorf("there is no column %q", column)
		}
	}
	var all []penguin
	for i, row := range rows[1:] {
		if slices.Contains(row, "NA") {
			continue
		}
		p := penguin{sex: slices.Index(sexes, row[at["sex"]])}
		if p.sex < 0 {
			return nil, fmt.Errorf("line %d: the sex is neither of %q", i+2, sexes)
		}
		for j, column := range columns {
			if p.measured[j], err = strconv.ParseFloat(row[at[column]], 64); err != nil {
				return nil, fmt.Errorf("line %d: %w", i+2, err)
			}
		}
		all = append(all, p)
	}
	return all, nil
}

// standardise uses the training part's mean and deviation for both parts, so that training learns nothing of the other.
func (s *split) standardise() {
	for i := range features {
		var sum, squares float64
		for _, p := range s.train {
			sum += p.measured[i]
			squares += p.measured[i] * p.measured[i]
		}
		n := float64(len(s.train))
		mean := sum / n
		deviation := math.Sqrt(squares/n - mean*mean)
		for _, part := range [][]penguin{s.train, s.validation} {
			for j := range part {
				part[j].measured[i] = (part[j].measured[i] - mean) / deviation
			}
		}
	}
}

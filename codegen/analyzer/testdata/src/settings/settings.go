package settings // want package:"summary of 3 functions"

var Limit int

var hidden int

func Load() { hidden = 1 }

func Read() int { return hidden }

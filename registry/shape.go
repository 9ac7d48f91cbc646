package registry

// A Shape tells who has encoded values, but not their types, what is in them: fields travel without their names. The first of its nodes is
// that of the values; a type that contains itself has nodes that lead back.
type Shape []Node

// A Node is one type of a [Shape].
type Node struct {
	// Fields are the names of what is in the list that a struct is encoded as; empty for other types.
	Fields []string `json:"fields,omitempty"`
	// Of are the nodes of the fields, in their order; or the one of all elements of a list, or of all values of a map. It is -1 where there is
	// nothing to tell.
	Of []int `json:"of,omitempty"`
	// Time says that it is time.Time, whose encoding is no list.
	Time bool `json:"time,omitempty"`
}

// Shape is that of the codec's values; nil if there is nothing to tell.
func (c *Codec) Shape() Shape {
	var shape Shape
	c.shape(&shape, map[*Codec]int{})
	return shape
}

func (c *Codec) shape(shape *Shape, known map[*Codec]int) int {
	if c.same { // as a pointer is encoded as what it leads to
		return c.of[0].shape(shape, known)
	}
	if len(c.of) == 0 && c.typ != timeType {
		return -1
	}
	if n, ok := known[c]; ok {
		return n
	}
	n := len(*shape)
	known[c] = n
	*shape = append(*shape, Node{Fields: c.fields, Time: c.typ == timeType})
	of := make([]int, len(c.of))
	for i, part := range c.of {
		of[i] = part.shape(shape, known)
	}
	(*shape)[n].Of = of
	return n
}

package main

import (
	"bytes"
	"compress/flate"
	"compress/lzw"
	"context"
	"fmt"
	"io"
)

// File is one input.
type File struct {
	Path string
	Data []byte
}

// Sizes are how long a file is, and how long it becomes, in bytes.
type Sizes struct {
	Raw, LZW int
	// Flate has the sizes of the levels from flate.BestSpeed to flate.BestCompression.
	Flate [flate.BestCompression]int
}

// Compress compresses a file in ten ways. It takes some milliseconds of a processor for a file of Go source.
func Compress(ctx context.Context, file File) (Sizes, error) {
	sizes := Sizes{Raw: len(file.Data)}
	for i := range sizes.Flate {
		if err := ctx.Err(); err != nil {
			return sizes, err
		}
		size, err := compressed(file.Data, func(w io.Writer) (io.WriteCloser, error) { return flate.NewWriter(w, flate.BestSpeed+i) })
		if err != nil {
			return sizes, fmt.Errorf("flate, level %d: %w", flate.BestSpeed+i, err)
		}
		sizes.Flate[i] = size
	}
	var err error
	sizes.LZW, err = compressed(file.Data, func(w io.Writer) (io.WriteCloser, error) { return lzw.NewWriter(w, lzw.LSB, 8), nil })
	return sizes, err
}

func compressed(data []byte, by func(io.Writer) (io.WriteCloser, error)) (int, error) {
	var out bytes.Buffer
	w, err := by(&out)
	if err != nil {
		return 0, err
	}
	if _, err := w.Write(data); err != nil {
		return 0, err
	}
	err = w.Close()
	return out.Len(), err
}

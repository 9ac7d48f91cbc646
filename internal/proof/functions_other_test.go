//go:build !unix

package proof

import "errors"

func endProcess(string) error { return errors.ErrUnsupported }

func shoot(int) error { return errors.ErrUnsupported }

func hold(int) error { return errors.ErrUnsupported }

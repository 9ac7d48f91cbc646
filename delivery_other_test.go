//go:build !unix

package sbx_test

import "errors"

func closeConn() error { return errors.ErrUnsupported }

func stopSelf() error { return errors.ErrUnsupported }

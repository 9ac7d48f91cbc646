//go:build !sbxworker

package docker

// For the tests that are users of sbx, and so in a package of their own.
var (
	TestImages = testImages
	TestEngine = testEngine
	ByStream   = byStream
	Ways       = ways
	Filter     = filter

	ServeAsAnother = serveAsAnother
)

const (
	LabelTag     = labelTag
	LabelSession = labelSession
	LabelOwner   = labelOwner
	LabelEnds    = labelEnds
	LabelWorker  = labelWorker
)

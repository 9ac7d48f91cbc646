package sbx

import (
	"fmt"
	"strings"
)

// maxImage is far more than a registry's host, a repository, a tag and a digest take together.
const maxImage = 1024

// Image names what the sandbox's files come from, such as "debian:12" or "ghcr.io/acme/train@sha256:…", in the words of the driver. Without it that is the
// driver's default. The function itself comes with the worker, and needs nothing of the image; commands do.
//
// Functions with other images run in other sandboxes. Where the driver has no such image, or no images at all, calls fail with a [*driver.ImageError].
func Image(ref string) SandboxOption {
	return sandboxOption(func(s *spec) error {
		switch {
		case ref == "":
			return &OptionError{Option: "Image", Reason: "is empty; leave it out for the driver's default"}
		case len(ref) > maxImage:
			return &OptionError{Option: "Image", Reason: fmt.Sprintf("has %d bytes; give at most %d", len(ref), maxImage)}
		case strings.ContainsFunc(ref, func(r rune) bool { return r <= ' ' || r > '~' }):
			return &OptionError{Option: "Image", Reason: fmt.Sprintf("is %q; a reference has no spaces, and no letters beyond ASCII", ref)}
		}
		s.image = ref
		return nil
	})
}

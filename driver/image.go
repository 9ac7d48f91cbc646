package driver

import (
	"errors"
	"fmt"
)

// ImageError says that a driver can't make a sandbox from an image, and what would change that.
type ImageError struct {
	// Driver is the driver's name.
	Driver string
	// Image is what was asked for.
	Image string
	// Err is what is missing, or what failed.
	Err error
	// Remedies are things that the user can do, each a whole phrase, the best first.
	Remedies []string
}

func (e *ImageError) Error() string {
	return fmt.Sprintf("the %s driver can't use the image %q: %v%s", e.Driver, e.Image, e.Err, toGoOn(e.Remedies))
}

func (e *ImageError) Unwrap() error { return e.Err }

// NoImages returns an [*ImageError] if image is not empty, or nil. It is for drivers whose sandboxes come from no image, for the reason why.
func NoImages(driver, why, image string) error {
	if image == "" {
		return nil
	}
	return &ImageError{Driver: driver, Image: image, Err: errors.New(why), Remedies: []string{
		"leave the image out", "use a driver that has images, such as docker or kubernetes",
	}}
}

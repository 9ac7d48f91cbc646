package driver

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
)

// openers make drivers of URLs, by scheme.
var openers = struct {
	sync.Mutex
	byScheme map[string]func(*url.URL) (Driver, error)
}{byScheme: map[string]func(*url.URL) (Driver, error){}}

// Register has [FromURL] call open for URLs of a scheme: "docker" for docker: or docker://host?image=x. Packages of drivers call it from init,
// so that importing one is enough. open does no I/O, and fails for parameters that it does not know. Register panics if the
// scheme is taken.
func Register(scheme string, open func(*url.URL) (Driver, error)) {
	openers.Lock()
	defer openers.Unlock()
	if _, taken := openers.byScheme[scheme]; taken {
		panic(fmt.Sprintf("driver: the scheme %q is registered twice", scheme))
	}
	openers.byScheme[scheme] = open
}

// FromURL returns the driver that a URL describes. A scheme alone will do: "local". The package of the driver must be part of the program.
func FromURL(text string) (Driver, error) {
	if !strings.Contains(text, ":") {
		text += ":"
	}
	if name, _, _ := strings.Cut(text, "?"); !strings.Contains(name, ":") {
		return nil, fmt.Errorf("a driver's URL has a colon before its parameters: write %s:?…", name)
	}
	u, err := url.Parse(text)
	if err != nil {
		if parse, ok := errors.AsType[*url.Error](err); ok {
			err = parse.Err // without the text, which may have a password
		}
		return nil, fmt.Errorf("a driver's URL: %w", err)
	}
	openers.Lock()
	open := openers.byScheme[u.Scheme]
	known := slices.Sorted(maps.Keys(openers.byScheme))
	openers.Unlock()
	if open == nil {
		return nil, fmt.Errorf("no driver %q is part of this program, which has %s: import its package, as in _ \"github.com/sandboxfn/sbx/driver/%s\"",
			u.Scheme, strings.Join(known, ", "), u.Scheme)
	}
	d, err := open(u)
	if err != nil {
		return nil, fmt.Errorf("driver %q: %w", u.Redacted(), err)
	}
	return d, nil
}

// Plain is an opener for [Register] of a driver that has nothing to configure.
func Plain(open func() Driver) func(*url.URL) (Driver, error) {
	return func(u *url.URL) (Driver, error) {
		if rest := strings.TrimPrefix(u.Redacted(), u.Scheme+":"); rest != "" {
			return nil, fmt.Errorf("%q is not for this driver, which has no parameters; give %q", rest, u.Scheme)
		}
		return open(), nil
	}
}

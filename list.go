package sbx

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
)

// published are the sandboxes of this program that run, by id.
var published = struct {
	sync.Mutex
	byID map[string]*Sandbox
}{byID: map[string]*Sandbox{}}

func publish(sb *Sandbox) {
	published.Lock()
	defer published.Unlock()
	published.byID[sb.id] = sb
}

func withdraw(sb *Sandbox) {
	published.Lock()
	defer published.Unlock()
	delete(published.byID, sb.id)
}

// List returns the sandboxes of this program that run, of all sessions with the same driver, that have every one of tags and of the
// session's default tags, sorted by id. Sandboxes of pools are not among them.
func (s *Session) List(ctx context.Context, tags ...string) ([]*Sandbox, error) {
	switch {
	case ctx == nil:
		return nil, fmt.Errorf("sbx: list sandboxes: %w", errNilContext)
	case !s.opened():
		return nil, fmt.Errorf("sbx: list sandboxes: %w", errNotOpened)
	case ctx.Err() != nil:
		return nil, fmt.Errorf("sbx: list sandboxes: %w", contextError(ctx))
	case !s.isOpen():
		return nil, fmt.Errorf("sbx: list sandboxes: %w", ErrClosed)
	case slices.Contains(tags, ""):
		return nil, fmt.Errorf("sbx: list sandboxes: %w", &OptionError{Option: "a tag", Reason: "is empty; leave it out"})
	}
	wanted := slices.Concat(s.config.spec.tags, tags)
	var found []*Sandbox
	published.Lock()
	for _, sb := range published.byID {
		if sb.session.config.driver.Name() == s.config.driver.Name() && hasAll(sb.tags, wanted) {
			found = append(found, sb)
		}
	}
	published.Unlock()
	slices.SortFunc(found, func(a, b *Sandbox) int { return cmp.Compare(a.id, b.id) })
	return found, nil
}

func hasAll(tags, wanted []string) bool {
	for _, tag := range wanted {
		if !slices.Contains(tags, tag) {
			return false
		}
	}
	return true
}

// FromID returns the sandbox of this program that has the id and runs, whichever session made it, and adopts it. If there is none
// the error wraps [ErrNoSandbox].
func (s *Session) FromID(ctx context.Context, id string) (*Sandbox, error) {
	fail := func(err error) (*Sandbox, error) { return nil, fmt.Errorf("sbx: sandbox from id %.100q: %w", id, err) }
	switch {
	case ctx == nil:
		return fail(errNilContext)
	case !s.opened():
		return fail(errNotOpened)
	case ctx.Err() != nil:
		return fail(contextError(ctx))
	case !s.isOpen():
		return fail(ErrClosed)
	}
	published.Lock()
	sb := published.byID[id]
	published.Unlock()
	if sb == nil || sb.session.config.driver.Name() != s.config.driver.Name() {
		return fail(ErrNoSandbox)
	}
	if err := s.adopt(sb); err != nil {
		return fail(err)
	}
	return sb, nil
}

// Adopt has Close of this session stop a running sandbox of another one, too, and counts it as one of this session's. It ends with the session that made it all the same.
// Adopting a sandbox again does nothing.
func (s *Session) Adopt(sb *Sandbox) error {
	var err error
	switch {
	case !s.opened():
		err = errNotOpened
	case sb.wrong() != nil:
		err = sb.wrong()
	default:
		err = s.adopt(sb)
	}
	if err != nil {
		return fmt.Errorf("sbx: adopt: %w", err)
	}
	return nil
}

func (s *Session) adopt(sb *Sandbox) error {
	sb.mu.Lock()
	defer sb.mu.Unlock()
	var unfit error // found before s is locked, which may be the sandbox's own session and is asked then
	switch sb.status {
	case Unstarted, Starting:
		unfit = fmt.Errorf("sandbox is %v; start it first", sb.status)
	case Running:
	default:
		unfit = fmt.Errorf("sandbox %s: %w", sb.id, sb.notRunning())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch _, has := s.own[sb]; {
	case s.closed:
		return ErrClosed
	case has:
		return nil
	case unfit != nil:
		return unfit
	}
	s.own[sb] = struct{}{}
	sb.adopters = append(sb.adopters, s)
	return nil
}

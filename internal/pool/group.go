package pool

import (
	"math"
	"time"
)

// counts are numbers of members by what they are now.
type counts [stopping + 1]int

// group is all of one class: its members and who waits for them. All of it is guarded by the pool's mu.
type group[C comparable, M Member] struct {
	class   C
	limits  Limits
	minimum int // of members, whether anybody waits or not

	waiting index[*waiter[C, M]]
	flows   map[any]*flow // of those who wait
	round   uint64        // of the one that was served last

	count          counts
	running, ahead int                 // leases
	movable        int                 // leases ahead that can be taken back
	free           index[*place[C, M]] // members that can run another lease: the least busy first, of those the one that was used last
	roomy          index[*place[C, M]] // busy members that take a lease ahead: the one with the fewest first
	loaded         index[*place[C, M]] // members with a lease ahead that can be taken back: the one with the most first
	load           index[*place[C, M]] // members that run several leases at a time: the least busy first

	draining int            // open members that get no lease any more for the sake of others
	heirs    int            // places that are being freed for this group
	drains   []*place[C, M] // members whose leases are waited for, of those places
	need     int            // places that the group could use, for who waits
	lack     int            // and those that are to be ready before anybody waits
	holds    int            // what holding was when the group was reckoned last, by which indexes order groups: until then others are moved in them
	came     uint64         // and firstCame
	at       [groupIndexes]int

	hold      *time.Timer // while it is not nil, members are not opened beside those that there are
	heldSince time.Time
	failures  int  // to open one, in a row
	missed    int  // how many could not be opened lately while others were being opened
	told      bool // of a failure nobody waited for
}

// The indexes of groups.
const (
	byWanting = iota
	bySeveral
	byLacking
	byDraining
	groupIndexes
)

// group returns the group of class. Callers hold mu.
func (p *Pool[C, M]) group(class C) *group[C, M] {
	g := p.groups[class]
	if g != nil {
		return g
	}
	type member = *place[C, M]
	g = &group[C, M]{
		class: class, limits: p.backend.Limits(class), flows: map[any]*flow{},
		waiting: newIndex(func(w *waiter[C, M]) *int { return &w.at }, (*waiter[C, M]).before),
		free: newIndex(func(m member) *int { return &m.at[byFree] }, func(a, b member) bool {
			return a.running < b.running || a.running == b.running && a.used > b.used
		}),
		roomy:  newIndex(func(m member) *int { return &m.at[byRoom] }, func(a, b member) bool { return len(a.ahead) < len(b.ahead) }),
		loaded: newIndex(func(m member) *int { return &m.at[byAhead] }, func(a, b member) bool { return len(a.ahead) > len(b.ahead) }),
		load: newIndex(func(m member) *int { return &m.at[byLoad] }, func(a, b member) bool {
			return a.running+len(a.ahead) < b.running+len(b.ahead)
		}),
	}
	p.groups[class] = g
	return g
}

// forget drops a group of which nothing is left. Callers hold mu.
func (p *Pool[C, M]) forget(g *group[C, M]) {
	if g.count == (counts{}) && g.waiting.len()+g.running+g.ahead+g.heirs+g.minimum == 0 && g.hold == nil && p.groups[g.class] == g {
		delete(p.groups, g.class)
	}
}

// coming is how many members are about to take leases.
func (g *group[C, M]) coming() int { return g.count[opening] + g.count[checking] + g.heirs }

// holding is how many places the group has, of those that it will keep, and will have.
func (g *group[C, M]) holding() int { return g.coming() + g.count[open] - g.draining }

// serving is holding without the places whose leases are waited for.
func (g *group[C, M]) serving() int { return g.holding() - len(g.drains) }

// before orders groups that want a place.
func (g *group[C, M]) before(other *group[C, M]) bool {
	return g.holds < other.holds || g.holds == other.holds && g.came < other.came
}

func (g *group[C, M]) firstCame() uint64 {
	if w := g.waiting.first(); w != nil {
		return w.came
	}
	return math.MaxUint64
}

// passed reports whether who waits for g has done so for long, and came before all who wait for other.
func (g *group[C, M]) passed(other *group[C, M]) bool {
	w := g.waiting.first()
	return w != nil && w.came < other.firstCame() && time.Since(w.queued) >= patience
}

// held reports whether those who wait are served by the members that there are.
func (g *group[C, M]) held() bool {
	return g.hold != nil && g.count[opening]+g.count[checking]+g.count[open] > 0
}

// uncovered is how many leases could run beside those that do and those that members which are coming will run.
func (g *group[C, M]) uncovered() int {
	return g.waiting.len() + g.movable - g.limits.Concurrency*g.coming()
}

// missing is how many places those could use.
func (g *group[C, M]) missing() int {
	if g.held() {
		return 0
	}
	return (max(g.uncovered(), 0) + g.limits.Concurrency - 1) / g.limits.Concurrency
}

// lacks is how many members are to be opened that nobody waits for.
func (g *group[C, M]) lacks() int {
	if g.hold != nil {
		return 0
	}
	n := g.minimum - g.holding()
	if g.limits.Spare {
		n = max(n, g.running+g.waiting.len()-g.free.len()-g.coming())
	}
	return max(n, 0)
}

// reckon brings what the pool knows of a group up to date. Callers hold mu.
func (p *Pool[C, M]) reckon(g *group[C, M]) {
	for len(g.drains) > 0 && (g.held() || g.uncovered()+g.limits.Concurrency <= 0) { // somebody left
		p.undrain(g.drains[len(g.drains)-1])
	}
	need := g.missing()
	p.need += need - g.need
	g.need, g.lack, g.holds, g.came = need, g.lacks(), g.holding(), g.firstCame()
	p.wanting.set(g, g.need > 0)
	p.waits.set(g, len(g.drains) > 0)
	p.lacking.set(g, g.lack > 0)
	p.several.set(g, g.load.len() > 0)
}

// index brings what the pool knows of a member up to date. Callers hold mu.
func (p *Pool[C, M]) index(place *place[C, M]) {
	g := place.group
	takes := place.state == open && !place.leaving()
	full := place.running == g.limits.Concurrency
	g.free.set(place, takes && !full)
	g.roomy.set(place, takes && full && !place.slow && len(place.ahead) < g.limits.Ahead && place.unsent == 0)
	g.loaded.set(place, place.recallable() != nil)
	g.load.set(place, takes && g.limits.Concurrency > 1)
	idle := takes && place.empty()
	p.idle.set(place, idle && g.minimum == 0)
	p.kept.set(place, idle && g.minimum > 0)
	p.reckon(g)
}

// become changes what a member is now. Callers hold mu.
func (p *Pool[C, M]) become(place *place[C, M], now state) {
	p.tally(place, -1)
	place.state = now
	p.tally(place, 1)
	p.index(place)
}

func (p *Pool[C, M]) tally(place *place[C, M], n int) {
	p.count[place.state] += n
	place.group.count[place.state] += n
}

func (p *Pool[C, M]) tick() uint64 {
	p.ticks++
	return p.ticks
}

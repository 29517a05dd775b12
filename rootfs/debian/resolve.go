package debian

import (
	"cmp"
	"fmt"
	"slices"

	"pault.ag/go/debian/dependency"
	"pault.ag/go/debian/version"
)

// Variants are which packages are taken besides those that are asked for.
var Variants = []string{"apt", "minbase", "important", "standard"}

// wanted says whether a variant has a package of its own accord.
func wanted(variant string, p *pkg) bool {
	switch {
	case p.essential, p.name == "apt":
		return true
	case variant == "apt":
		return false
	}
	return rank(p) <= max(slices.Index(Variants, variant)-1, 0)
}

// selection is what is chosen so far.
type selection struct {
	u      *universe
	chosen map[string]*pkg
	gives  map[string][]provided // what the chosen provide
	bars   map[string][]bar      // what the chosen cannot be beside, by its name
	order  []*pkg
}

// bar is what a package says that it cannot be beside.
type bar struct {
	by   *pkg
	what dependency.Possibility
}

// resolve gives the packages of a variant and those that are asked for, with all that
// they depend on, in an order in which a package comes behind what it needs, as far as
// there is one. What is recommended is not taken, as by debootstrap.
func (u *universe) resolve(variant string, include []string) ([]*pkg, error) {
	s := &selection{u: u, chosen: map[string]*pkg{}, gives: map[string][]provided{}, bars: map[string][]bar{}}
	var roots []*pkg
	for _, p := range u.packages {
		if wanted(variant, p) {
			roots = append(roots, p)
		}
	}
	slices.SortFunc(roots, byName)
	for _, name := range include {
		p := u.packages[name]
		if p == nil {
			if all := u.provides[name]; len(all) > 0 {
				return nil, fmt.Errorf("package %s is virtual: name one that provides it, such as %s", name, all[0].by.name)
			}
			return nil, fmt.Errorf("there is no package %s", name)
		}
		roots = append(roots, p)
	}
	for _, p := range roots { // all of them first: they may be what others can choose
		if err := s.add(p); err != nil {
			return nil, err
		}
	}
	for i := 0; i < len(s.order); i++ {
		for _, field := range []string{"Pre-Depends", "Depends"} {
			if err := s.satisfy(s.order[i], field); err != nil {
				return nil, err
			}
		}
	}
	return s.sorted()
}

func byName(a, b *pkg) int { return cmp.Compare(a.name, b.name) }

// add chooses a package.
func (s *selection) add(p *pkg) error {
	if s.chosen[p.name] != nil {
		return nil
	}
	s.chosen[p.name] = p
	s.order = append(s.order, p)
	for _, field := range []string{"Provides", "Conflicts", "Breaks"} {
		relations, err := relationsOf(p, field)
		if err != nil {
			return err
		}
		for _, r := range relations {
			for _, what := range r.Possibilities {
				if field == "Provides" {
					s.gives[what.Name] = append(s.gives[what.Name], provided{p, numberOf(what)})
				} else {
					s.bars[what.Name] = append(s.bars[what.Name], bar{p, what})
				}
			}
		}
	}
	return nil
}

// numberOf is the version that a relation names, or "".
func numberOf(a dependency.Possibility) string {
	if a.Version == nil {
		return ""
	}
	return a.Version.Number
}

// satisfy chooses what a package needs: the first alternative, unless one is chosen
// already.
func (s *selection) satisfy(p *pkg, field string) error {
	relations, err := relationsOf(p, field)
	if err != nil {
		return err
	}
next:
	for _, r := range relations {
		for _, a := range r.Possibilities {
			if s.has(a) {
				continue next
			}
		}
		for _, a := range preferred(r.Possibilities) {
			if q := s.u.find(a); q != nil && s.conflict(q) == "" {
				if err := s.add(q); err != nil {
					return err
				}
				continue next
			}
		}
		return fmt.Errorf("package %s needs %s, which is not to be had", p.name, r)
	}
	return nil
}

// preferred are alternatives in the order in which they are tried: that of the package,
// but a tree that has its links into /usr from the start needs no program to make them.
func preferred(all []dependency.Possibility) []dependency.Possibility {
	i := slices.IndexFunc(all, func(a dependency.Possibility) bool { return a.Name == "usr-is-merged" })
	if i <= 0 {
		return all
	}
	return slices.Concat(all[i:i+1], all[:i], all[i+1:])
}

// fits says whether a version is one that a relation allows. A provider without a
// version fits no relation that asks for one.
func fits(a dependency.Possibility, v version.Version) bool {
	return a.Version == nil || a.Version.SatisfiedBy(v)
}

func fitsProvided(a dependency.Possibility, p provided) bool {
	if a.Version == nil {
		return true
	}
	v, err := version.Parse(p.version)
	return err == nil && fits(a, v)
}

// has says whether something that is chosen is what a relation asks for.
func (s *selection) has(a dependency.Possibility) bool { return s.whatIs(a) != nil }

func (s *selection) whatIs(a dependency.Possibility) *pkg {
	if p := s.chosen[a.Name]; p != nil && fits(a, p.version) {
		return p
	}
	for _, p := range s.gives[a.Name] {
		if fitsProvided(a, p) {
			return p.by
		}
	}
	return nil
}

// find is the package that a relation means, or one that provides it.
func (u *universe) find(a dependency.Possibility) *pkg {
	if p := u.packages[a.Name]; p != nil && fits(a, p.version) {
		return p
	}
	for _, p := range u.provides[a.Name] {
		if fitsProvided(a, p) {
			return p.by
		}
	}
	return nil
}

// conflict names a chosen package that a package cannot be beside, "" for none.
func (s *selection) conflict(p *pkg) string {
	for _, field := range []string{"Conflicts", "Breaks"} {
		mine, _ := relationsOf(p, field) // an error is found when it is added
		for _, r := range mine {
			for _, a := range r.Possibilities {
				if q := s.chosen[a.Name]; q != nil && q != p && fits(a, q.version) {
					return q.name
				}
				for _, g := range s.gives[a.Name] {
					if g.by != p && fitsProvided(a, g) {
						return g.by.name
					}
				}
			}
		}
	}
	for _, b := range s.bars[p.name] {
		if b.by != p && fits(b.what, p.version) {
			return b.by.name
		}
	}
	given, _ := relationsOf(p, "Provides")
	for _, r := range given {
		for _, what := range r.Possibilities {
			for _, b := range s.bars[what.Name] {
				if b.by != p && fitsProvided(b.what, provided{p, numberOf(what)}) {
					return b.by.name
				}
			}
		}
	}
	return ""
}

// sorted puts what a package needs before it, Pre-Depends above all; in a circle names
// decide. It says which packages cannot be beside each other.
func (s *selection) sorted() ([]*pkg, error) {
	all := slices.Clone(s.order)
	slices.SortFunc(all, func(a, b *pkg) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), byName(a, b))
	})
	var out []*pkg
	state := map[*pkg]bool{} // false while what it needs is visited
	var visit func(p *pkg)
	visit = func(p *pkg) {
		if _, seen := state[p]; seen {
			return
		}
		state[p] = false
		for _, field := range []string{"Pre-Depends", "Depends"} {
			relations, _ := relationsOf(p, field) // read before, without an error
			for _, r := range relations {
				for _, a := range r.Possibilities {
					if q := s.whatIs(a); q != nil {
						visit(q)
						break
					}
				}
			}
		}
		state[p] = true
		out = append(out, p)
	}
	for _, p := range all {
		if q := s.conflict(p); q != "" {
			return nil, fmt.Errorf("packages %s and %s cannot be installed together", p.name, q)
		}
	}
	for _, p := range all {
		visit(p)
	}
	return out, nil
}

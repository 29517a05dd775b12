package debian

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"pault.ag/go/debian/dependency"
	"pault.ag/go/debian/version"
)

// pkg is one version of a package, as an index has it.
type pkg struct {
	name, arch string
	version    version.Version
	priority   string
	essential  bool
	file       string // its path on the mirror
	sum        sum
	text       paragraph
}

// provided is a package that stands for another name.
type provided struct {
	by      *pkg
	version string // "" where none was said
}

// universe is all packages of the indexes, the newest version of each.
type universe struct {
	arch     string
	packages map[string]*pkg
	provides map[string][]provided
}

// packagesMax bounds the packages of all indexes; Debian's main has some 70,000.
const packagesMax = 1 << 20

// newUniverse reads indexes.
func newUniverse(arch string, indexes ...string) (*universe, error) {
	u := &universe{arch: arch, packages: make(map[string]*pkg), provides: make(map[string][]provided)}
	count := 0
	for _, text := range indexes {
		err := eachParagraph(text, func(text paragraph) error {
			if count++; count > packagesMax {
				return fmt.Errorf("more than %d packages", packagesMax)
			}
			p, err := readPackage(text)
			if err != nil {
				return err
			}
			if p.arch != arch && p.arch != "all" {
				return nil
			}
			if old := u.packages[p.name]; old == nil || version.Compare(old.version, p.version) < 0 {
				u.packages[p.name] = p
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	for _, p := range u.packages {
		relations, err := relationsOf(p, "Provides")
		if err != nil {
			return nil, err
		}
		for _, r := range relations {
			for _, what := range r.Possibilities {
				u.provides[what.Name] = append(u.provides[what.Name], provided{p, numberOf(what)})
			}
		}
	}
	for _, all := range u.provides {
		slices.SortFunc(all, func(a, b provided) int {
			return cmp.Or(cmp.Compare(rank(a.by), rank(b.by)), cmp.Compare(a.by.name, b.by.name))
		})
	}
	return u, nil
}

// rank orders packages that provide the same: the more a system needs one, the earlier.
func rank(p *pkg) int {
	order := []string{"required", "important", "standard", "optional"}
	if i := slices.Index(order, p.priority); i >= 0 {
		return i
	}
	return len(order)
}

// nameChars are those of package names, file names of packages add others.
const nameChars = "abcdefghijklmnopqrstuvwxyz0123456789+-."

func readPackage(text paragraph) (*pkg, error) {
	p := &pkg{name: text.field("Package"), arch: text.field("Architecture"), priority: text.field("Priority"),
		essential: text.field("Essential") == "yes", file: text.field("Filename"), text: text}
	if p.name == "" || len(p.name) > 128 || strings.Trim(p.name, nameChars) != "" || strings.ContainsAny(p.name[:1], "+-.") {
		return nil, fmt.Errorf("package %.80q: no name of a package", p.name)
	}
	if p.arch == "" || len(p.arch) > 64 || strings.Trim(p.arch, nameChars) != "" {
		return nil, fmt.Errorf("package %s: architecture %.80q", p.name, p.arch)
	}
	var err error
	if p.version, err = version.Parse(text.field("Version")); err != nil {
		return nil, fmt.Errorf("package %s: version %.80q: %w", p.name, text.field("Version"), err)
	}
	p.sum.sha256 = text.field("SHA256")
	if p.sum.size, err = strconv.ParseInt(text.field("Size"), 10, 64); err != nil || p.sum.size <= 0 || p.sum.size > packageMax {
		return nil, fmt.Errorf("package %s: size %.40q", p.name, text.field("Size"))
	}
	if len(p.sum.sha256) != 64 || strings.Trim(p.sum.sha256, "0123456789abcdef") != "" {
		return nil, fmt.Errorf("package %s: SHA256 %.80q", p.name, p.sum.sha256)
	}
	if p.file == "" || !inside(p.file) {
		return nil, fmt.Errorf("package %s: file %.200q", p.name, p.file)
	}
	return p, nil
}

// packageMax bounds a package's file, in bytes.
const packageMax = 8 << 30

// inside says whether a path stays below where it begins.
func inside(path string) bool {
	return !strings.HasPrefix(path, "/") && !strings.ContainsAny(path, "\x00\n") && !slices.Contains(strings.Split(path, "/"), "..")
}

func relationsOf(p *pkg, field string) ([]dependency.Relation, error) {
	text := p.text.field(field)
	if text == "" {
		return nil, nil
	}
	d, err := dependency.Parse(strings.ReplaceAll(text, "\n", " "))
	if err != nil {
		return nil, fmt.Errorf("package %s: %s: %w", p.name, field, err)
	}
	return d.Relations, nil
}

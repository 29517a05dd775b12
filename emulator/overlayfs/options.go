package overlayfs

import (
	"fmt"
	"slices"
	"strings"
)

// options are those of a mount.
type options struct {
	upper, work string
	lowers      []string // the topmost first
	userXattr   bool
}

// granted are options with the values that say what the Sentry's overlay does anyway.
// With others it would have to do what it cannot.
var granted = map[string][]string{
	"index":               {"off"},
	"metacopy":            {"off"},
	"nfs_export":          {"off"},
	"redirect_dir":        {"off", "nofollow"},
	"verity":              {"off"},
	"xino":                {"off", "auto"},
	"uuid":                {"off", "null", "auto"},
	"volatile":            {""},
	"default_permissions": {""},
}

// parseOptions reads the last argument of mount(2). In paths a backslash stands before
// a comma, a colon or a backslash that is meant as such.
func parseOptions(data string) (*options, error) {
	o := &options{}
	for _, word := range split(data, ',') {
		name, value, _ := strings.Cut(word, "=")
		switch name {
		case "":
		case "upperdir":
			o.upper = unescape(value)
		case "workdir":
			o.work = unescape(value)
		case "lowerdir":
			o.lowers = nil
			for _, l := range split(value, ':') {
				if l == "" {
					return nil, fmt.Errorf("empty lowerdir in %q", word)
				}
				o.lowers = append(o.lowers, unescape(l))
			}
		case "lowerdir+":
			o.lowers = append(o.lowers, value)
		case "userxattr":
			o.userXattr = true
		default:
			values, known := granted[name]
			if !known {
				return nil, fmt.Errorf("unknown option %q", word)
			}
			if !slices.Contains(values, value) {
				return nil, fmt.Errorf("option %q is not supported", word)
			}
		}
	}
	return o, nil
}

// String is the options as /proc/mounts shows them: as they were given, and what would
// part words there as octal numbers.
func (o *options) String() string {
	escape := strings.NewReplacer(`\`, `\\`, ":", `\:`, ",", `\,`)
	octal := strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`, ",", `\054`, "#", `\043`)
	show := func(path string) string { return octal.Replace(escape.Replace(path)) }
	var lowers []string
	for _, l := range o.lowers {
		lowers = append(lowers, show(l))
	}
	s := "lowerdir=" + strings.Join(lowers, ":")
	if o.upper != "" {
		s += ",upperdir=" + show(o.upper) + ",workdir=" + show(o.work)
	}
	if o.userXattr {
		s += ",userxattr"
	}
	return s
}

// split is strings.Split where the separator has no backslash before it.
func split(s string, sep byte) (words []string) {
	from := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case sep:
			words = append(words, s[from:i])
			from = i + 1
		}
	}
	return append(words, s[from:])
}

func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// within says whether path is dir or below it.
func within(dir, path string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

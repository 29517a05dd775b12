package text

import (
	"io"
	"slices"
	"strings"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
)

// Tr translates, deletes and squeezes bytes.
func Tr(e *applet.Env, args []string) error {
	var complement, remove, squeeze, truncate bool
	var o applet.Options
	o.InOrder = true
	o.Bool(&complement, 'c', "complement")
	o.Bool(&complement, 'C', "")
	o.Bool(&remove, 'd', "delete")
	o.Bool(&squeeze, 's', "squeeze-repeats")
	o.Bool(&truncate, 't', "truncate-set1")
	sets, err := o.Parse(args)
	if err != nil {
		return err
	}
	want := 2
	if remove && !squeeze {
		want = 1
	}
	if len(sets) == 0 || len(sets) > 2 || len(sets) > want ||
		len(sets) < want && !(squeeze && !remove) {
		return applet.Usagef("wrong number of operands")
	}
	one, err := expandSet(sets[0], 0)
	if err != nil {
		return err
	}
	if complement {
		one = invert(one)
	}
	var two []byte
	if len(sets) == 2 {
		if two, err = expandSet(sets[1], len(one)); err != nil {
			return err
		}
	}
	var drop, single [256]bool
	var table [256]byte
	for i := range table {
		table[i] = byte(i)
	}
	switch {
	case remove:
		for _, c := range one {
			drop[c] = true
		}
		for _, c := range two {
			single[c] = true
		}
	case len(sets) == 2:
		if len(two) == 0 {
			return applet.Usagef("when not truncating set1, string2 must be non-empty")
		}
		if truncate {
			one = one[:min(len(one), len(two))]
		}
		for i, c := range one {
			table[c] = two[min(i, len(two)-1)]
		}
		if squeeze {
			for _, c := range two {
				single[c] = true
			}
		}
	default:
		for _, c := range one {
			single[c] = true
		}
	}
	buf := make([]byte, 32<<10)
	last := -1
	for {
		n, err := e.Stdin.Read(buf)
		out := buf[:0]
		for _, c := range buf[:n] {
			if drop[c] {
				continue
			}
			c = table[c]
			if single[c] && int(c) == last {
				continue
			}
			last = int(c)
			out = append(out, c)
		}
		if _, werr := e.Stdout.Write(out); werr != nil {
			return werr
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// expandSet lists the bytes of a set: escapes, ranges, [:class:], [=c=],
// [c*n] and [c*], which fills up to the length of the first set.
func expandSet(s string, fill int) ([]byte, error) {
	var set []byte
	for i := 0; i < len(s); {
		if s[i] == '[' && i+1 < len(s) {
			if s[i+1] == ':' {
				if end := strings.Index(s[i+2:], ":]"); end >= 0 {
					class, err := class(s[i+2 : i+2+end])
					if err != nil {
						return nil, err
					}
					set = append(set, class...)
					i += end + 4
					continue
				}
			}
			if s[i+1] == '=' && i+4 < len(s) && s[i+3:i+5] == "=]" {
				set = append(set, s[i+2])
				i += 5
				continue
			}
			c, n := setByte(s[i+1:])
			if rest := s[i+1+n:]; n > 0 && strings.HasPrefix(rest, "*") {
				if end := strings.IndexByte(rest, ']'); end > 0 {
					base := 10
					if end > 1 && rest[1] == '0' {
						base = 8
					}
					count, used := digits(rest[1:end], base, 9)
					if used == end-1 {
						if count == 0 {
							count = max(fill-len(set), 0)
						}
						if count > 1<<20 {
							return nil, applet.Usagef("invalid repeat count in %s", applet.Quote(s))
						}
						set = append(set, slices.Repeat([]byte{c}, count)...)
						i += 1 + n + end + 1
						continue
					}
				}
			}
		}
		c, n := setByte(s[i:])
		i += n
		if i+1 < len(s) && s[i] == '-' {
			last, n := setByte(s[i+1:])
			if last < c {
				return nil, applet.Usagef("range-endpoints of '%c-%c' are in reverse collating sequence order", c, last)
			}
			for v := int(c); v <= int(last); v++ {
				set = append(set, byte(v))
			}
			i += 1 + n
			continue
		}
		set = append(set, c)
	}
	return set, nil
}

// setByte reads a byte or an escape.
func setByte(s string) (byte, int) {
	if s == "" {
		return 0, 0
	}
	if s[0] != '\\' || len(s) == 1 {
		return s[0], 1
	}
	if n, used := digits(s[1:], 8, 3); used > 0 {
		return byte(n), 1 + used
	}
	if i := strings.IndexByte(`abfnrtv\`, s[1]); i >= 0 {
		return "\a\b\f\n\r\t\v\\"[i], 2
	}
	return s[1], 2
}

func invert(set []byte) []byte {
	var in [256]bool
	for _, c := range set {
		in[c] = true
	}
	var out []byte
	for c := range 256 {
		if !in[c] {
			out = append(out, byte(c))
		}
	}
	return out
}

func class(name string) ([]byte, error) {
	var match func(c byte) bool
	lower := func(c byte) bool { return c >= 'a' && c <= 'z' }
	upper := func(c byte) bool { return c >= 'A' && c <= 'Z' }
	digit := func(c byte) bool { return c >= '0' && c <= '9' }
	graph := func(c byte) bool { return c > ' ' && c < 127 }
	alnum := func(c byte) bool { return lower(c) || upper(c) || digit(c) }
	switch name {
	case "lower":
		match = lower
	case "upper":
		match = upper
	case "digit":
		match = digit
	case "alpha":
		match = func(c byte) bool { return lower(c) || upper(c) }
	case "alnum":
		match = alnum
	case "xdigit":
		match = func(c byte) bool { return digit(c) || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F' }
	case "space":
		match = func(c byte) bool { return c == ' ' || c >= 9 && c <= 13 }
	case "blank":
		match = func(c byte) bool { return c == ' ' || c == '\t' }
	case "punct":
		match = func(c byte) bool { return graph(c) && !alnum(c) }
	case "graph":
		match = graph
	case "print":
		match = func(c byte) bool { return c == ' ' || graph(c) }
	case "cntrl":
		match = func(c byte) bool { return c < ' ' || c == 127 }
	default:
		return nil, applet.Usagef("invalid character class %s", applet.Quote(name))
	}
	var set []byte
	for c := range 256 {
		if match(byte(c)) {
			set = append(set, byte(c))
		}
	}
	return set, nil
}

package text

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// POSIX expressions are rewritten to the syntax of package regexp. What that
// cannot do, back references, is refused by name.

// basicRegexp rewrites a basic expression with GNU's \+ \? \| and word escapes.
func basicRegexp(p string) (string, error) {
	var b strings.Builder
	atStart := true // where * and ^ mean something else
	for i := 0; i < len(p); {
		c := p[i]
		start := atStart
		atStart = false
		switch {
		case c == '\\' && i+1 < len(p):
			d := p[i+1]
			i += 2
			switch d {
			case '(', ')', '{', '}', '|', '+', '?':
				b.WriteByte(d)
				atStart = d == '(' || d == '|'
			default:
				text, err := escaped(d)
				if err != nil {
					return "", err
				}
				b.WriteString(text)
			}
			continue
		case c == '\\':
			return "", fmt.Errorf("trailing backslash in %q", p)
		case c == '*' && start:
			b.WriteString(`\*`)
		case c == '^':
			if start {
				b.WriteByte('^')
				atStart = true
			} else {
				b.WriteString(`\^`)
			}
		case c == '$':
			if i+1 == len(p) || strings.HasPrefix(p[i+1:], `\)`) || strings.HasPrefix(p[i+1:], `\|`) {
				b.WriteByte('$')
			} else {
				b.WriteString(`\$`)
			}
		case strings.IndexByte("(){}|+?", c) >= 0:
			b.WriteByte('\\')
			b.WriteByte(c)
		case c == '[':
			set, n, err := bracket(p[i:])
			if err != nil {
				return "", err
			}
			b.WriteString(set)
			i += n
			continue
		default:
			_, n := utf8.DecodeRuneInString(p[i:])
			b.WriteString(p[i : i+n])
			i += n
			continue
		}
		i++
	}
	return b.String(), nil
}

// extendedRegexp rewrites an extended expression.
func extendedRegexp(p string) (string, error) {
	var b strings.Builder
	atStart := true
	for i := 0; i < len(p); {
		c := p[i]
		start := atStart
		atStart = false
		switch {
		case c == '\\' && i+1 < len(p):
			text, err := escaped(p[i+1])
			if err != nil {
				return "", err
			}
			b.WriteString(text)
			i += 2
			continue
		case c == '\\':
			return "", fmt.Errorf("trailing backslash in %q", p)
		case c == '[':
			set, n, err := bracket(p[i:])
			if err != nil {
				return "", err
			}
			b.WriteString(set)
			i += n
			continue
		case start && (c == '*' || c == '+' || c == '?'):
			b.WriteByte('\\') // nothing to repeat: itself
		case c == '{' && !interval(p[i:]):
			b.WriteByte('\\')
		case c == '(' || c == '|':
			atStart = true
		}
		b.WriteByte(c)
		i++
	}
	return b.String(), nil
}

// interval says whether p begins with a repetition like {2,3}.
func interval(p string) bool {
	end := strings.IndexByte(p, '}')
	return end > 1 && strings.Trim(p[1:end], "0123456789,") == "" && p[1] != ','
}

// escaped is what a backslash and c mean outside brackets.
func escaped(c byte) (string, error) {
	switch {
	case c >= '1' && c <= '9':
		return "", fmt.Errorf("back reference \\%c: not supported", c)
	case c == '<' || c == '>':
		return `\b`, nil
	case c == '`':
		return `\A`, nil
	case c == '\'':
		return `\z`, nil
	case strings.IndexByte("wWsSbB", c) >= 0:
		return `\` + string(c), nil
	case c == 'n':
		return `\n`, nil
	case c == 't':
		return `\t`, nil
	case c < utf8.RuneSelf && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'):
		return string(c), nil
	case c < utf8.RuneSelf:
		return `\` + string(c), nil
	}
	return string([]byte{c}), nil
}

// bracket rewrites the bracket expression p begins with and returns its length.
func bracket(p string) (string, int, error) {
	var b strings.Builder
	b.WriteByte('[')
	i := 1
	if i < len(p) && p[i] == '^' {
		b.WriteByte('^')
		i++
	}
	for first := true; i < len(p); first = false {
		c := p[i]
		switch {
		case c == ']' && !first:
			b.WriteByte(']')
			return b.String(), i + 1, nil
		case c == '[' && i+1 < len(p) && strings.IndexByte(":.=", p[i+1]) >= 0:
			end := strings.Index(p[i+2:], string(p[i+1])+"]")
			if end < 0 {
				return "", 0, fmt.Errorf("unmatched [ in %q", p)
			}
			name := p[i+2 : i+2+end]
			if p[i+1] == ':' {
				b.WriteString("[:" + name + ":]")
			} else {
				b.WriteString(quoteInSet(name))
			}
			i += end + 4
			continue
		case strings.IndexByte(`[]\&~`, c) >= 0:
			b.WriteByte('\\')
			b.WriteByte(c)
		default:
			b.WriteByte(c)
		}
		i++
	}
	return "", 0, fmt.Errorf("unmatched [ in %q", p)
}

func quoteInSet(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if strings.IndexByte(`[]\^-`, s[i]) >= 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

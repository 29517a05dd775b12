// Package text holds the applets that read, change and produce text.
package text

import (
	"strings"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
)

// Echo writes its arguments. Only the options that come first and consist of
// the letters n, e and E are options; everything else is text.
func Echo(e *applet.Env, args []string) error {
	newline, escapes := true, false
	for len(args) > 0 {
		flags, ok := strings.CutPrefix(args[0], "-")
		if !ok || flags == "" || strings.Trim(flags, "neE") != "" {
			break
		}
		for _, c := range flags {
			switch c {
			case 'n':
				newline = false
			case 'e':
				escapes = true
			case 'E':
				escapes = false
			}
		}
		args = args[1:]
	}
	text := strings.Join(args, " ")
	if escapes {
		var stop bool
		if text, stop = unescape(text, true); stop {
			newline = false
		}
	}
	e.Stdout.WriteString(text)
	if newline {
		e.Stdout.WriteByte('\n')
	}
	return nil
}

// unescape replaces backslash escapes. In the form of echo an octal number is
// \0NNN, in that of printf \NNN. stop says that \c ended the output.
func unescape(s string, echo bool) (out string, stop bool) {
	if strings.IndexByte(s, '\\') < 0 {
		return s, false
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		switch c := s[i]; c {
		case 'a':
			b.WriteByte(7)
		case 'b':
			b.WriteByte(8)
		case 'c':
			return b.String(), true
		case 'e':
			b.WriteByte(27)
		case 'f':
			b.WriteByte(12)
		case 'n':
			b.WriteByte('\n')
		case 'r':
			b.WriteByte('\r')
		case 't':
			b.WriteByte('\t')
		case 'v':
			b.WriteByte(11)
		case '\\':
			b.WriteByte('\\')
		case 'x':
			n, used := digits(s[i+1:], 16, 2)
			if used == 0 {
				b.WriteString(`\x`)
			} else {
				b.WriteByte(byte(n))
			}
			i += used
		case '0', '1', '2', '3', '4', '5', '6', '7':
			at, limit := i, 3
			if echo && c == '0' {
				at = i + 1
			}
			n, used := digits(s[at:], 8, limit)
			b.WriteByte(byte(n))
			i = at + used - 1
		case '"':
			if !echo {
				b.WriteByte('"')
				break
			}
			b.WriteString(`\"`)
		default:
			b.WriteByte('\\')
			b.WriteByte(c)
		}
	}
	return b.String(), false
}

// digits reads at most limit digits of a base up to 16.
func digits(s string, base, limit int) (n, used int) {
	for used < len(s) && used < limit {
		c, d := s[used], base
		switch {
		case c >= '0' && c <= '9':
			d = int(c - '0')
		case c >= 'a' && c <= 'f':
			d = int(c-'a') + 10
		case c >= 'A' && c <= 'F':
			d = int(c-'A') + 10
		}
		if d >= base {
			break
		}
		n = n*base + d
		used++
	}
	return n, used
}

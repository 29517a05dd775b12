package text

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
)

// Printf formats its arguments, repeating the format while there are any.
func Printf(e *applet.Env, args []string) error {
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		return applet.Usagef("missing operand")
	}
	format, args := args[0], args[1:]
	for {
		used, stop, err := printfOnce(e, format, args)
		if err != nil || stop {
			return err
		}
		args = args[used:]
		if used == 0 || len(args) == 0 {
			return nil
		}
	}
}

// printfOnce writes the format once and returns how many arguments it took.
// stop says that \c ended the output.
func printfOnce(e *applet.Env, format string, args []string) (used int, stop bool, err error) {
	next := func() string {
		if used == len(args) {
			used++ // counted, and cut back at the end
			return ""
		}
		if used > len(args) {
			return ""
		}
		used++
		return args[used-1]
	}
	defer func() { used = min(used, len(args)) }()
	for i := 0; i < len(format); {
		c := format[i]
		if c == '\\' {
			end := escapeEnd(format, i)
			text, halt := unescape(format[i:end], false)
			e.Stdout.WriteString(text)
			if halt {
				return used, true, nil
			}
			i = end
			continue
		}
		if c != '%' {
			e.Stdout.WriteByte(c)
			i++
			continue
		}
		if strings.HasPrefix(format[i:], "%%") {
			e.Stdout.WriteByte('%')
			i += 2
			continue
		}
		spec := "%"
		for i++; i < len(format) && strings.IndexByte("-+ #0123456789.*", format[i]) >= 0; i++ {
			if format[i] == '*' {
				n, perr := integer(next())
				e.Warn(perr)
				spec += strconv.FormatInt(min(max(n, -4096), 4096), 10)
				continue
			}
			spec += format[i : i+1]
		}
		for i < len(format) && strings.IndexByte("hlLjzt", format[i]) >= 0 {
			i++ // sizes of C mean nothing here
		}
		if i == len(format) {
			return used, false, applet.Usagef("%s: missing conversion", applet.Quote(format))
		}
		conv := format[i]
		i++
		switch conv {
		case 's':
			fmt.Fprintf(e.Stdout, spec+"s", next())
		case 'b':
			text, halt := unescape(next(), true)
			fmt.Fprintf(e.Stdout, spec+"s", text)
			if halt {
				return used, true, nil
			}
		case 'q':
			fmt.Fprintf(e.Stdout, spec+"s", shellQuote(next()))
		case 'c':
			arg := next()
			fmt.Fprintf(e.Stdout, spec+"s", arg[:min(len(arg), 1)])
		case 'd', 'i':
			n, perr := integer(next())
			e.Warn(perr)
			fmt.Fprintf(e.Stdout, spec+"d", n)
		case 'u', 'o', 'x', 'X':
			n, perr := integer(next())
			e.Warn(perr)
			verb := string(conv)
			if conv == 'u' {
				verb = "d"
			}
			fmt.Fprintf(e.Stdout, spec+verb, uint64(n))
		case 'e', 'E', 'f', 'F', 'g', 'G':
			arg := next()
			v, perr := strconv.ParseFloat(strings.TrimSpace(arg), 64)
			if perr != nil && arg != "" {
				e.Warnf("%s: expected a numeric value", applet.Quote(arg))
			}
			if (conv == 'g' || conv == 'G') && !strings.Contains(spec, ".") {
				spec += ".6" // C's precision
			}
			fmt.Fprintf(e.Stdout, spec+string(conv), v)
		default:
			return used, false, applet.Usagef("%%%c: invalid conversion specification", conv)
		}
	}
	return used, false, nil
}

// escapeEnd is where the escape at i ends.
func escapeEnd(s string, i int) int {
	if i+1 >= len(s) {
		return len(s)
	}
	switch c := s[i+1]; {
	case c >= '0' && c <= '7':
		_, n := digits(s[i+1:], 8, 3)
		return i + 1 + n
	case c == 'x':
		_, n := digits(s[i+2:], 16, 2)
		return i + 2 + n
	}
	_, n := utf8.DecodeRuneInString(s[i+1:])
	return i + 1 + n
}

// integer reads a number as C does, or the code of the character behind a quote.
func integer(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	if s[0] == '\'' || s[0] == '"' {
		r, n := utf8.DecodeRuneInString(s[1:])
		if n == 0 {
			return 0, nil
		}
		return int64(r), nil
	}
	n, err := strconv.ParseInt(strings.TrimSpace(s), 0, 64)
	if err != nil {
		if u, uerr := strconv.ParseUint(strings.TrimSpace(s), 0, 64); uerr == nil {
			return int64(u), nil
		}
		return n, fmt.Errorf("%s: expected a numeric value", applet.Quote(s))
	}
	return n, nil
}

// shellQuote quotes a word for the shell, if it needs it.
func shellQuote(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789%+,-./:@_") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

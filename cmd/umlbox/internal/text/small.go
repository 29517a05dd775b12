package text

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"github.com/umlkit/umlkit/cmd/umlbox/internal/file"
	"golang.org/x/sys/unix"
)

// Tac copies lines in reverse order.
func Tac(e *applet.Env, args []string) error {
	var o applet.Options
	files, err := o.Parse(args)
	if err != nil {
		return err
	}
	return file.EachInput(e, files, func(r io.Reader) error {
		var all [][]byte
		err := lines(r, '\n', func(line []byte, ended bool) bool {
			l := bytes.Clone(line)
			if ended {
				l = append(l, '\n')
			}
			all = append(all, l)
			return true
		})
		for _, l := range slices.Backward(all) {
			e.Stdout.Write(l)
		}
		return err
	})
}

// Rev copies lines with their characters in reverse order.
func Rev(e *applet.Env, args []string) error {
	var o applet.Options
	files, err := o.Parse(args)
	if err != nil {
		return err
	}
	return file.EachInput(e, files, func(r io.Reader) error {
		return lines(r, '\n', func(line []byte, ended bool) bool {
			for len(line) > 0 {
				_, n := utf8.DecodeLastRune(line)
				e.Stdout.Write(line[len(line)-n:])
				line = line[:len(line)-n]
			}
			if ended {
				e.Stdout.WriteByte('\n')
			}
			return true
		})
	})
}

// Nl numbers lines.
func Nl(e *applet.Env, args []string) error {
	style, separator := "t", "\t"
	width, n, step := 6, 1, 1
	var o applet.Options
	o.String(&style, 'b', "body-numbering")
	o.String(&separator, 's', "number-separator")
	o.Int(&width, 'w', "number-width")
	o.Int(&n, 'v', "starting-line-number")
	o.Int(&step, 'i', "line-increment")
	files, err := o.Parse(args)
	if err != nil {
		return err
	}
	if style != "a" && style != "t" && style != "n" {
		return applet.Usagef("invalid body numbering style: %s", applet.Quote(style))
	}
	return file.EachInput(e, files, func(r io.Reader) error {
		return lines(r, '\n', func(line []byte, ended bool) bool {
			if style == "a" || style == "t" && len(line) > 0 {
				fmt.Fprintf(e.Stdout, "%*d%s", width, n, separator)
				n += step
			} else {
				e.Stdout.WriteString(strings.Repeat(" ", width+len(separator)))
			}
			e.Stdout.Write(line)
			e.Stdout.WriteByte('\n')
			return true
		})
	})
}

// Tee copies standard input to files and standard output.
func Tee(e *applet.Env, args []string) error {
	var add, ignore bool
	var o applet.Options
	o.Bool(&add, 'a', "append")
	o.Bool(&ignore, 'i', "ignore-interrupts")
	names, err := o.Parse(args)
	if err != nil {
		return err
	}
	if ignore {
		signal.Ignore(unix.SIGINT)
	}
	flags := os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	if add {
		flags = os.O_WRONLY | os.O_CREATE | os.O_APPEND
	}
	var outs []*os.File
	for _, name := range names {
		f, err := os.OpenFile(name, flags, 0o666)
		if err != nil {
			e.Warn(err)
			continue
		}
		outs = append(outs, f)
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := e.Stdin.Read(buf)
		e.Stdout.Write(buf[:n])
		e.Stdout.Flush()
		for i, f := range outs {
			if f == nil {
				continue
			}
			if _, werr := f.Write(buf[:n]); werr != nil {
				e.Warn(werr)
				outs[i] = nil
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	for _, f := range outs {
		if f != nil {
			e.Warn(f.Close())
		}
	}
	return nil
}

// Seq counts.
func Seq(e *applet.Env, args []string) error {
	separator, format := "\n", ""
	var equal bool
	var o applet.Options
	o.InOrder = true
	o.String(&separator, 's', "separator")
	o.String(&format, 'f', "format")
	o.Bool(&equal, 'w', "equal-width")
	// A negative number is no option.
	at := slices.IndexFunc(args, func(a string) bool {
		return len(a) > 1 && a[0] == '-' && (a[1] >= '0' && a[1] <= '9' || a[1] == '.')
	})
	var tail []string
	if at >= 0 {
		args, tail = args[:at:at], args[at:]
	}
	operands, err := o.Parse(args)
	if err != nil {
		return err
	}
	operands = append(operands, tail...)
	first, step, last := "1", "1", ""
	switch len(operands) {
	case 1:
		last = operands[0]
	case 2:
		first, last = operands[0], operands[1]
	case 3:
		first, step, last = operands[0], operands[1], operands[2]
	default:
		return applet.Usagef("one to three operands are needed")
	}
	var v [3]float64
	places := 0
	for i, s := range []string{first, step, last} {
		if v[i], err = strconv.ParseFloat(s, 64); err != nil || math.IsNaN(v[i]) {
			return applet.Usagef("invalid floating point argument: %s", applet.Quote(s))
		}
		if _, frac, ok := strings.Cut(s, "."); ok && i < 2 {
			places = max(places, len(frac))
		}
	}
	if v[1] == 0 {
		return applet.Usagef("invalid Zero increment value: %s", applet.Quote(step))
	}
	width := 0
	if equal {
		for _, x := range []float64{v[0], v[2]} {
			width = max(width, len(strconv.FormatFloat(x, 'f', places, 64)))
		}
	}
	for i := 0; ; i++ {
		x := v[0] + float64(i)*v[1]
		// Half a step of the last place forgives what binary fractions lose.
		slack := math.Pow(10, -float64(places)) / 2
		if places == 0 {
			slack = 0
		}
		if v[1] > 0 && x > v[2]+slack || v[1] < 0 && x < v[2]-slack {
			break
		}
		if i > 0 {
			e.Stdout.WriteString(separator)
		}
		text := strconv.FormatFloat(x, 'f', places, 64)
		if format != "" {
			if text, err = formatNumber(format, x); err != nil {
				return err
			}
		} else if n := width - len(text); n > 0 {
			sign := ""
			if text[0] == '-' {
				sign, text = "-", text[1:]
			}
			text = sign + strings.Repeat("0", n) + text
		}
		if _, err := e.Stdout.WriteString(text); err != nil {
			return err
		}
		if i == 0 && v[1] > 0 && v[0] > v[2] {
			break
		}
	}
	if x := v[0]; v[1] > 0 && x <= v[2] || v[1] < 0 && x >= v[2] {
		e.Stdout.WriteByte('\n')
	}
	return nil
}

// formatNumber applies a printf format with one floating-point conversion.
func formatNumber(format string, x float64) (string, error) {
	at := strings.IndexByte(strings.ReplaceAll(format, "%%", "\x00\x00"), '%')
	if at < 0 {
		return "", applet.Usagef("format %s has no %% directive", applet.Quote(format))
	}
	end := at + 1
	for end < len(format) && strings.IndexByte("-+ #0123456789.", format[end]) >= 0 {
		end++
	}
	if end == len(format) || strings.IndexByte("aAeEfFgG", format[end]) < 0 {
		return "", applet.Usagef("format %s has an unknown directive", applet.Quote(format))
	}
	return fmt.Sprintf(format[:end+1], x) + strings.ReplaceAll(format[end+1:], "%%", "%"), nil
}

// Yes repeats a line for ever.
func Yes(e *applet.Env, args []string) error {
	text := "y\n"
	if len(args) > 0 {
		text = strings.Join(args, " ") + "\n"
	}
	block := bytes.Repeat([]byte(text), max(1, 8192/len(text)))
	for {
		if _, err := e.Stdout.Write(block); err != nil {
			return err
		}
	}
}

// True succeeds.
func True(*applet.Env, []string) error { return nil }

// False fails.
func False(*applet.Env, []string) error { return applet.Status(1) }

// Paste joins lines of files.
func Paste(e *applet.Env, args []string) error {
	var serial bool
	delimiters := "\t"
	var o applet.Options
	o.Bool(&serial, 's', "serial")
	o.String(&delimiters, 'd', "delimiters")
	names, err := o.Parse(args)
	if err != nil {
		return err
	}
	delimiters, _ = unescape(strings.ReplaceAll(delimiters, `\0`, "\x00"), false)
	between := func(i int) string {
		if delimiters == "" || delimiters[i%len(delimiters)] == 0 {
			return ""
		}
		return string(delimiters[i%len(delimiters)])
	}
	if len(names) == 0 {
		names = []string{"-"}
	}
	in := make([]*bufio.Reader, len(names))
	stdin := bufio.NewReader(e.Stdin) // several "-" take turns
	for i, name := range names {
		if in[i] = stdin; name == "-" {
			continue
		}
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		in[i] = bufio.NewReader(f)
	}
	if serial {
		for _, r := range in {
			column := 0
			err := lines(r, '\n', func(line []byte, ended bool) bool {
				if column > 0 {
					e.Stdout.WriteString(between(column - 1))
				}
				e.Stdout.Write(line)
				column++
				return true
			})
			if err != nil {
				return err
			}
			e.Stdout.WriteByte('\n')
		}
		return nil
	}
	for {
		row := make([]string, len(in))
		any := false
		for i, r := range in {
			text, err := r.ReadString('\n')
			if err != nil && err != io.EOF {
				return err
			}
			any = any || text != ""
			row[i] = strings.TrimSuffix(text, "\n")
		}
		if !any {
			return nil
		}
		for i, text := range row {
			if i > 0 {
				e.Stdout.WriteString(between(i - 1))
			}
			e.Stdout.WriteString(text)
		}
		e.Stdout.WriteByte('\n')
	}
}

// Strings shows what is text in binary files.
func Strings(e *applet.Env, args []string) error {
	least := 4
	radix := ""
	var o applet.Options
	o.Int(&least, 'n', "bytes")
	o.Func('a', "all", func() {}) // whole files are always read
	o.String(&radix, 't', "radix")
	files, err := o.Parse(args)
	if err != nil {
		return err
	}
	if radix != "" && radix != "d" && radix != "o" && radix != "x" || least < 1 {
		return applet.Usagef("invalid radix or length")
	}
	return file.EachInput(e, files, func(r io.Reader) error {
		buf := make([]byte, 64<<10)
		var run []byte
		pos := int64(0)
		flush := func(end int64) {
			if len(run) >= least {
				if radix != "" {
					fmt.Fprintf(e.Stdout, "%7"+radix+" ", end-int64(len(run)))
				}
				e.Stdout.Write(append(run, '\n'))
			}
			run = run[:0]
		}
		for {
			n, err := r.Read(buf)
			for _, c := range buf[:n] {
				if c >= ' ' && c < 127 || c == '\t' {
					if run = append(run, c); len(run) > maxLine {
						return errLongLine
					}
				} else {
					flush(pos)
				}
				pos++
			}
			if err != nil {
				flush(pos)
				if err == io.EOF {
					return nil
				}
				return err
			}
		}
	})
}

// More shows text page by page.
func More(e *applet.Env, args []string) error {
	var o applet.Options
	files, err := o.Parse(args)
	if err != nil {
		return err
	}
	ws, werr := unix.IoctlGetWinsize(1, unix.TIOCGWINSZ)
	if werr != nil { // not a terminal: a mere copy
		return file.EachInput(e, files, func(r io.Reader) error { _, err := e.Stdout.ReadFrom(r); return err })
	}
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return err
	}
	defer tty.Close()
	old, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		return err
	}
	raw := *old
	raw.Lflag &^= unix.ICANON | unix.ECHO
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	restore := func() { unix.IoctlSetTermios(int(tty.Fd()), unix.TCSETS, old) }
	if err := unix.IoctlSetTermios(int(tty.Fd()), unix.TCSETS, &raw); err != nil {
		return err
	}
	defer restore()
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, unix.SIGINT, unix.SIGTERM)
	go func() {
		<-interrupts
		restore()
		os.Exit(130)
	}()
	width, height := max(int(ws.Col), 1), max(int(ws.Row)-1, 1)
	left := height
	err = file.EachInput(e, files, func(r io.Reader) error {
		quit := false
		err := lines(r, '\n', func(line []byte, ended bool) bool {
			need := max((utf8.RuneCount(line)+width-1)/width, 1)
			if left < need {
				e.Stdout.WriteString("\x1b[7m--More--\x1b[0m")
				e.Stdout.Flush()
				var key [1]byte
				tty.Read(key[:])
				e.Stdout.WriteString("\r\x1b[K")
				switch key[0] {
				case 'q', 'Q', 3:
					quit = true
					return false
				case '\n', '\r', 'j':
					left = need
				default:
					left = height
				}
			}
			left -= need
			e.Stdout.Write(line)
			e.Stdout.WriteByte('\n')
			return true
		})
		if quit {
			return applet.Status(0)
		}
		return err
	})
	return err
}

package text

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"unicode/utf8"
)

// What a cycle ends with.
const (
	sedNext       = iota // print, next line
	sedDelete            // next line
	sedRestart           // D: the program again, without a new line
	sedQuit              // print and end
	sedQuitSilent        // end
	sedEnd               // the input ended within the cycle
)

// maxSteps bounds the commands of one cycle, that a loop without end ends.
const maxSteps = 1 << 30

// cycle runs the program once.
func (s *sed) cycle() (action, status int, err error) {
	steps := 0
	for pc := 0; pc < len(s.program); pc++ {
		if steps++; steps > maxSteps {
			return 0, 0, errors.New("the program loops without end")
		}
		c := s.program[pc]
		selected, err := s.selects(c)
		if err != nil {
			return 0, 0, err
		}
		if selected == c.negate {
			if c.name == '{' {
				pc = c.target - 1
			}
			continue
		}
		switch c.name {
		case 'd':
			return sedDelete, 0, nil
		case 'D':
			i := bytes.IndexByte(s.pattern, '\n')
			if i < 0 {
				return sedDelete, 0, nil
			}
			s.pattern = append(s.pattern[:0], s.pattern[i+1:]...)
			return sedRestart, 0, nil
		case 'q':
			return sedQuit, c.n, nil
		case 'Q':
			return sedQuitSilent, c.n, nil
		case 'b':
			pc = c.target - 1
		case 't', 'T':
			if s.changed == (c.name == 't') {
				pc = c.target - 1
			}
			s.changed = false
		case 'n', 'N':
			done, err := s.advance(c.name)
			if err != nil || done != sedNext {
				return done, 0, err
			}
		case 'c':
			if c.two == nil || c.negate || !c.active {
				if err := s.text(c.text); err != nil {
					return 0, 0, err
				}
			}
			return sedDelete, 0, nil
		default:
			if err := s.command(c); err != nil {
				return 0, 0, err
			}
		}
	}
	return sedNext, 0, nil
}

// advance is n and N. Without another line GNU's n and N print what there is.
func (s *sed) advance(name byte) (int, error) {
	last, err := s.in.last()
	if err != nil {
		return 0, err
	}
	if last && (!s.separate || len(s.in.names) == 0) {
		return sedEnd, s.cycleEnd()
	}
	if name == 'n' {
		if err := s.cycleEnd(); err != nil {
			return 0, err
		}
		s.pattern = s.pattern[:0]
	} else {
		if err := s.appended(); err != nil {
			return 0, err
		}
		s.pattern = append(s.pattern, '\n')
	}
	return sedNext, s.in.next()
}

func (s *sed) text(text string) error {
	return s.write([]byte(text + "\n"))
}

func (s *sed) command(c *sedCommand) error {
	switch c.name {
	case '=':
		return s.text(strconv.Itoa(s.line))
	case 'F':
		return s.text(s.in.name)
	case 'a':
		s.after = append(s.after, func() error { return s.text(c.text) })
	case 'i':
		return s.text(c.text)
	case 'g':
		s.pattern = append(s.pattern[:0], s.hold...)
	case 'G':
		s.pattern = append(append(s.pattern, '\n'), s.hold...)
	case 'h':
		s.hold = append(s.hold[:0], s.pattern...)
	case 'H':
		s.hold = append(append(s.hold, '\n'), s.pattern...)
	case 'x':
		s.pattern, s.hold = s.hold, s.pattern
	case 'z':
		s.pattern = s.pattern[:0]
	case 'l':
		return s.unambiguous(c.n)
	case 'p':
		return s.put(s.pattern)
	case 'P':
		line, _, _ := bytes.Cut(s.pattern, []byte{'\n'})
		return s.write(append(bytes.Clone(line), s.end))
	case 'r':
		s.after = append(s.after, func() error {
			b, err := os.ReadFile(c.text)
			if err == nil { // a file that cannot be read is empty
				return s.write(b)
			}
			return nil
		})
	case 's':
		return s.substitute(c)
	case 'w':
		return s.toFile(c.text, s.pattern)
	case 'W':
		line, _, _ := bytes.Cut(s.pattern, []byte{'\n'})
		return s.toFile(c.text, line)
	case 'y':
		for i, b := range s.pattern {
			if r, ok := c.table[b]; ok {
				s.pattern[i] = r
			}
		}
	}
	return nil
}

func (s *sed) toFile(name string, line []byte) error {
	line = append(bytes.Clone(line), '\n')
	switch name {
	case "/dev/stdout":
		_, err := s.e.Stdout.Write(line)
		return err
	case "/dev/stderr":
		_, err := s.e.Stderr.Write(line)
		return err
	}
	f := s.files[name]
	if f == nil {
		var err error
		if f, err = os.Create(name); err != nil {
			return err
		}
		s.files[name] = f
	}
	_, err := f.Write(line)
	return err
}

// unambiguous is l: escapes for all that is not printable, $ at the end, lines
// folded at width (70 by default, 1 for none).
func (s *sed) unambiguous(width int) error {
	if width == 0 {
		width = 70
	}
	column := 0
	var out bytes.Buffer
	put := func(piece string) {
		if width > 1 && column+len(piece) > width-1 {
			out.WriteString("\\\n")
			column = 0
		}
		out.WriteString(piece)
		column += len(piece)
	}
	for _, c := range s.pattern {
		if i := bytes.IndexByte([]byte("\\\a\b\f\n\r\t\v"), c); i >= 0 {
			put(`\` + string(`\abfnrtv`[i]))
		} else if c < ' ' || c > '~' {
			put(fmt.Sprintf("\\%03o", c))
		} else {
			put(string(rune(c)))
		}
	}
	out.WriteString("$\n")
	return s.write(out.Bytes())
}

// selects says whether a command's addresses select the line.
func (s *sed) selects(c *sedCommand) (bool, error) {
	if c.one == nil {
		return true, nil
	}
	if c.two == nil {
		return s.matches(c.one)
	}
	if c.active {
		if c.two.kind != '/' && c.two.kind != '$' {
			if s.line >= c.until {
				c.active = false
				return s.line == c.until, nil
			}
			return true, nil
		}
		end, err := s.matches(c.two)
		c.active = !end
		return true, err
	}
	zero := c.one.kind == 'n' && c.one.n == 0
	if zero {
		if s.line != 1 {
			return false, nil
		}
		end, err := s.matches(c.two) // 0,/re/ may end on the first line
		c.active = !end
		return true, err
	}
	begin, err := s.matches(c.one)
	if err != nil || !begin {
		return false, err
	}
	switch c.two.kind {
	case 'n':
		c.until = c.two.n
	case '+':
		c.until = s.line + c.two.n
	case 'm':
		c.until = s.line
		if c.two.n > 0 {
			c.until = (s.line/c.two.n + 1) * c.two.n
		}
	case '~':
		c.until = s.line
	case '$':
		last, err := s.in.last()
		c.active = !last
		return true, err
	default:
		c.active = true
		return true, nil
	}
	c.active = c.until > s.line
	return true, nil
}

func (s *sed) matches(a *address) (bool, error) {
	switch a.kind {
	case 'n':
		return s.line == a.n, nil
	case '~':
		if a.step <= 0 {
			return s.line == a.n, nil
		}
		return s.line >= a.n && (s.line-a.n)%a.step == 0, nil
	case '$':
		return s.in.last()
	}
	if a.re != nil {
		s.last = a.re
	}
	if s.last == nil {
		return false, errors.New("no previous regular expression")
	}
	return s.last.Match(s.pattern), nil
}

func (s *sed) substitute(c *sedCommand) error {
	if c.re != nil {
		s.last = c.re
	}
	if s.last == nil {
		return errors.New("no previous regular expression")
	}
	var out []byte
	done, n := 0, 0
	for _, m := range s.last.FindAllSubmatchIndex(s.pattern, -1) {
		if n++; n < c.flags.nth {
			continue
		}
		out = append(out, s.pattern[done:m[0]]...)
		out = c.expand(out, s.pattern, m)
		done = m[1]
		s.changed = true
		if !c.flags.global {
			break
		}
	}
	if n == 0 || n < c.flags.nth {
		return nil
	}
	s.pattern = append(out, s.pattern[done:]...)
	if c.flags.print {
		if err := s.put(s.pattern); err != nil {
			return err
		}
	}
	if c.flags.file != "" {
		return s.toFile(c.flags.file, s.pattern)
	}
	return nil
}

// expand appends the right side for a match, with its changes of case.
func (c *sedCommand) expand(out, line []byte, m []int) []byte {
	long, once := byte('E'), byte(0)
	for _, p := range c.parts {
		if p.fold != 0 {
			if p.fold == 'u' || p.fold == 'l' {
				once = p.fold
			} else {
				long, once = p.fold, 0
			}
			continue
		}
		piece := []byte(p.text)
		if p.group >= 0 {
			if 2*p.group+1 >= len(m) || m[2*p.group] < 0 {
				continue
			}
			piece = line[m[2*p.group]:m[2*p.group+1]]
		}
		if len(piece) == 0 {
			continue
		}
		switch long {
		case 'U':
			piece = bytes.ToUpper(piece)
		case 'L':
			piece = bytes.ToLower(piece)
		}
		if once != 0 {
			_, size := utf8.DecodeRune(piece)
			head := bytes.ToUpper(piece[:size])
			if once == 'l' {
				head = bytes.ToLower(piece[:size])
			}
			piece = append(head, piece[size:]...)
			once = 0
		}
		out = append(out, piece...)
	}
	return out
}

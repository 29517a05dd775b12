package text

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// address selects lines: a number, $, an expression, first~step.
type address struct {
	kind byte // 'n' number, '$', '/' expression, '~' step, '+' lines further, 'm' to a multiple
	n    int
	step int
	re   *regexp.Regexp // nil with kind '/': the last one used
}

// sedCommand is one command of the program. Blocks are flat: { jumps behind
// its } when it is not selected.
type sedCommand struct {
	one, two *address
	negate   bool
	name     byte
	text     string // of a, i, c; label of b, t, T, :; file of r, w, W
	n        int    // of q, Q, l
	target   int    // of {, b, t, T: the command to go on with
	re       *regexp.Regexp
	parts    []replacement
	flags    sedFlags
	table    map[byte]byte // of y

	active bool // between the addresses of a range
	until  int  // the line where it ends, if that is known
}

type sedFlags struct {
	global, print bool
	nth           int
	file          string
}

// replacement is a piece of the right side of s: text, a group, a change of case.
type replacement struct {
	text  string
	group int  // -1: text
	fold  byte // 'U', 'L', 'u', 'l' or 'E', instead of both
}

type sedParser struct {
	s    *sed
	text string
	pos  int
}

// maxProgram bounds a script.
const maxProgram = 1 << 20

func (p *sedParser) peek() byte {
	if p.pos < len(p.text) {
		return p.text[p.pos]
	}
	return 0
}

func (p *sedParser) skip(set string) {
	for p.pos < len(p.text) && strings.IndexByte(set, p.text[p.pos]) >= 0 {
		p.pos++
	}
}

func (p *sedParser) parse() ([]*sedCommand, error) {
	if len(p.text) > maxProgram {
		return nil, errors.New("the script is too long")
	}
	var program []*sedCommand
	var open []int
	for {
		p.skip(" \t\n;")
		if p.pos >= len(p.text) {
			break
		}
		if p.peek() == '#' {
			p.lineText()
			continue
		}
		c := &sedCommand{}
		if err := p.addresses(c); err != nil {
			return nil, err
		}
		if p.pos >= len(p.text) {
			return nil, errors.New("missing command")
		}
		c.name = p.peek()
		p.pos++
		if err := p.arguments(c); err != nil {
			return nil, err
		}
		switch c.name {
		case '{':
			open = append(open, len(program))
		case '}':
			if len(open) == 0 {
				return nil, errors.New("unexpected `}'")
			}
			if c.one != nil {
				return nil, errors.New("} doesn't want any addresses")
			}
			program[open[len(open)-1]].target = len(program) + 1
			open = open[:len(open)-1]
		case ':':
			if c.one != nil {
				return nil, errors.New(": doesn't want any addresses")
			}
		}
		program = append(program, c)
	}
	if len(open) > 0 {
		return nil, errors.New("unmatched `{'")
	}
	return program, resolveLabels(program)
}

func resolveLabels(program []*sedCommand) error {
	for _, c := range program {
		if strings.IndexByte("btT", c.name) < 0 {
			continue
		}
		c.target = len(program)
		if c.text == "" {
			continue
		}
		c.target = -1
		for j, d := range program {
			if d.name == ':' && d.text == c.text {
				c.target = j
			}
		}
		if c.target < 0 {
			return fmt.Errorf("can't find label for jump to `%s'", c.text)
		}
	}
	return nil
}

func (p *sedParser) addresses(c *sedCommand) (err error) {
	if c.one, err = p.address(); err != nil || c.one == nil {
		if err == nil {
			p.bang(c)
		}
		return err
	}
	p.skip(" \t")
	if p.peek() == ',' {
		p.pos++
		p.skip(" \t")
		switch k := p.peek(); k {
		case '+', '~':
			p.pos++
			n, ok := p.number()
			if !ok {
				return errors.New("expected a number")
			}
			kind := byte('+')
			if k == '~' {
				kind = 'm'
			}
			c.two = &address{kind: kind, n: n}
		default:
			if c.two, err = p.address(); err != nil {
				return err
			}
			if c.two == nil {
				return errors.New("unexpected `,'")
			}
		}
	}
	if c.one.kind == 'n' && c.one.n == 0 && (c.two == nil || c.two.kind != '/') {
		return errors.New("invalid usage of line address 0")
	}
	p.bang(c)
	return nil
}

func (p *sedParser) bang(c *sedCommand) {
	p.skip(" \t")
	for p.peek() == '!' {
		c.negate = true
		p.pos++
		p.skip(" \t")
	}
}

func (p *sedParser) number() (int, bool) {
	begin := p.pos
	for p.pos < len(p.text) && p.text[p.pos] >= '0' && p.text[p.pos] <= '9' {
		p.pos++
	}
	n, err := strconv.Atoi(p.text[begin:p.pos])
	return n, err == nil
}

func (p *sedParser) address() (*address, error) {
	switch c := p.peek(); {
	case c >= '0' && c <= '9':
		n, ok := p.number()
		if !ok {
			return nil, errors.New("the line number is too large")
		}
		if p.peek() == '~' {
			p.pos++
			step, _ := p.number()
			return &address{kind: '~', n: n, step: step}, nil
		}
		return &address{kind: 'n', n: n}, nil
	case c == '$':
		p.pos++
		return &address{kind: '$'}, nil
	case c == '/' || c == '\\':
		p.pos++
		if c == '\\' {
			c = p.peek()
			p.pos++
		}
		text, err := p.delimited(c, true)
		if err != nil {
			return nil, errors.New("unterminated address regex")
		}
		flags := ""
		for strings.IndexByte("IM", p.peek()) >= 0 && p.peek() != 0 {
			flags += strings.ToLower(string(p.peek()))
			p.pos++
		}
		re, err := p.compile(text, flags)
		return &address{kind: '/', re: re}, err
	}
	return nil, nil
}

// delimited reads up to an unescaped delimiter and past it. The delimiter
// itself loses its backslash; in an expression it may stand in brackets.
func (p *sedParser) delimited(end byte, expression bool) (string, error) {
	var b strings.Builder
	inSet := false
	for ; p.pos < len(p.text); p.pos++ {
		c := p.text[p.pos]
		switch {
		case c == '\\' && p.pos+1 < len(p.text) && !inSet:
			p.pos++
			d := p.text[p.pos]
			switch {
			case d == end && !(expression && strings.IndexByte("(){}|+?", d) >= 0):
				b.WriteByte(d)
			case d == '\n' && expression:
				b.WriteByte('\n')
			default:
				b.WriteByte('\\')
				b.WriteByte(d)
			}
			continue
		case c == end && !inSet:
			p.pos++
			return b.String(), nil
		case c == '\n' && expression:
			return "", errors.New("unterminated")
		case expression && c == '[' && !inSet:
			inSet = true
			b.WriteByte(c)
			// A ] that comes first is a member of the set.
			for _, first := range []byte{'^', ']'} {
				if p.pos+1 < len(p.text) && p.text[p.pos+1] == first {
					b.WriteByte(first)
					p.pos++
				}
			}
			continue
		case expression && c == ']' && inSet:
			inSet = false
		}
		b.WriteByte(c)
	}
	return "", errors.New("unterminated")
}

func (p *sedParser) compile(text, flags string) (*regexp.Regexp, error) {
	if text == "" {
		return nil, nil
	}
	var err error
	if p.s.extended {
		text, err = extendedRegexp(text)
	} else {
		text, err = basicRegexp(text)
	}
	if err != nil {
		return nil, err
	}
	re, err := regexp.Compile("(?s" + flags + ")" + text)
	if err != nil {
		return nil, err
	}
	re.Longest()
	return re, nil
}

// lineText takes the rest of the line.
func (p *sedParser) lineText() string {
	rest := p.text[p.pos:]
	if i := strings.IndexByte(rest, '\n'); i >= 0 {
		rest = rest[:i]
	}
	p.pos += len(rest)
	return rest
}

func (p *sedParser) arguments(c *sedCommand) error {
	switch c.name {
	case '{':
		return nil
	case '=', 'd', 'D', 'g', 'G', 'h', 'H', 'n', 'N', 'p', 'P', 'x', 'z', 'F', '}':
	case 'a', 'i', 'c':
		return p.appendText(c)
	case ':':
		p.skip(" \t")
		c.text = strings.TrimRight(p.lineTextTo(";"), " \t")
		if c.text == "" {
			return errors.New("\":\" lacks a label")
		}
		return nil
	case 'b', 't', 'T':
		p.skip(" \t")
		c.text = strings.TrimRight(p.lineTextTo(";}"), " \t")
		return nil
	case 'r', 'w', 'W':
		p.skip(" \t")
		if c.text = p.lineText(); c.text == "" {
			return errors.New("missing filename in r/w/W commands")
		}
		return nil
	case 'q', 'Q', 'l':
		p.skip(" \t")
		c.n, _ = p.number()
		if c.two != nil && c.name != 'l' {
			return errors.New("command only uses one address")
		}
	case 's':
		return p.substitution(c)
	case 'y':
		return p.transliteration(c)
	default:
		return fmt.Errorf("unknown command: `%c'", c.name)
	}
	return p.endOfCommand()
}

// lineTextTo takes the rest of the line up to one of the bytes in stop.
func (p *sedParser) lineTextTo(stop string) string {
	begin := p.pos
	for p.pos < len(p.text) && p.text[p.pos] != '\n' && strings.IndexByte(stop, p.text[p.pos]) < 0 {
		p.pos++
	}
	return p.text[begin:p.pos]
}

func (p *sedParser) endOfCommand() error {
	p.skip(" \t")
	if p.pos >= len(p.text) {
		return nil
	}
	switch p.text[p.pos] {
	case ';', '\n':
		p.pos++
		return nil
	case '}', '#':
		return nil
	}
	return errors.New("extra characters after command")
}

// appendText reads the text of a, i and c: behind a backslash and newline, or
// on the same line. A newline in it stands behind a backslash.
func (p *sedParser) appendText(c *sedCommand) error {
	p.skip(" \t")
	if p.peek() == '\\' {
		p.pos++
		p.skip(" \t")
		if p.peek() == '\n' {
			p.pos++
		}
	}
	if p.pos >= len(p.text) {
		return errors.New("expected \\ after `a', `c' or `i'")
	}
	var b strings.Builder
	for ; p.pos < len(p.text) && p.text[p.pos] != '\n'; p.pos++ {
		if p.text[p.pos] == '\\' && p.pos+1 < len(p.text) {
			p.pos++
		}
		b.WriteByte(p.text[p.pos])
	}
	c.text = b.String()
	return nil
}

func (p *sedParser) substitution(c *sedCommand) error {
	end := p.peek()
	if end == 0 || end == '\n' || end == '\\' {
		return errors.New("unterminated `s' command")
	}
	p.pos++
	expr, err := p.delimited(end, true)
	if err != nil {
		return errors.New("unterminated `s' command")
	}
	right, err := p.delimited(end, false)
	if err != nil {
		return errors.New("unterminated `s' command")
	}
	flags := ""
	for done := false; !done; {
		switch f := p.peek(); {
		case f == 'g':
			c.flags.global = true
		case f == 'p':
			c.flags.print = true
		case f == 'i' || f == 'I':
			flags += "i"
		case f == 'm' || f == 'M':
			flags += "m"
		case f >= '1' && f <= '9':
			c.flags.nth, _ = p.number()
			continue
		case f == '0':
			return errors.New("number option to `s' command may not be zero")
		case f == 'w':
			p.pos++
			p.skip(" \t")
			if c.flags.file = p.lineText(); c.flags.file == "" {
				return errors.New("missing filename in r/w/W commands")
			}
			done = true
			continue
		default:
			done = true
			continue
		}
		p.pos++
	}
	if c.re, err = p.compile(expr, flags); err != nil {
		return err
	}
	if c.parts, err = replacements(right); err != nil {
		return err
	}
	for _, part := range c.parts {
		if c.re != nil && part.group > c.re.NumSubexp() {
			return fmt.Errorf("invalid reference \\%d on `s' command's RHS", part.group)
		}
	}
	if err := p.endOfCommand(); err != nil {
		return errors.New("unknown option to `s'")
	}
	return nil
}

// replacements cuts the right side of s into pieces.
func replacements(s string) ([]replacement, error) {
	var parts []replacement
	var b strings.Builder
	flush := func() {
		if b.Len() > 0 {
			parts = append(parts, replacement{text: b.String(), group: -1})
			b.Reset()
		}
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '&':
			flush()
			parts = append(parts, replacement{group: 0})
		case c == '\\' && i+1 < len(s):
			i++
			switch d := s[i]; {
			case d >= '0' && d <= '9':
				flush()
				parts = append(parts, replacement{group: int(d - '0')})
			case strings.IndexByte("ULulE", d) >= 0:
				flush()
				parts = append(parts, replacement{group: -1, fold: d})
			case d == 'n':
				b.WriteByte('\n')
			case d == 't':
				b.WriteByte('\t')
			case d == 'r':
				b.WriteByte('\r')
			default:
				b.WriteByte(d)
			}
		default:
			b.WriteByte(c)
		}
	}
	flush()
	return parts, nil
}

func (p *sedParser) transliteration(c *sedCommand) error {
	end := p.peek()
	if end == 0 || end == '\n' || end == '\\' {
		return errors.New("unterminated `y' command")
	}
	p.pos++
	var sides [2][]byte
	for i := range sides {
		text, err := p.delimited(end, false)
		if err != nil {
			return errors.New("unterminated `y' command")
		}
		for j := 0; j < len(text); j++ {
			b := text[j]
			if b == '\\' && j+1 < len(text) {
				j++
				switch b = text[j]; b {
				case 'n':
					b = '\n'
				case 't':
					b = '\t'
				}
			}
			sides[i] = append(sides[i], b)
		}
	}
	if len(sides[0]) != len(sides[1]) {
		return errors.New("strings for `y' command are different lengths")
	}
	c.table = map[byte]byte{}
	for i, b := range sides[0] {
		c.table[b] = sides[1][i]
	}
	return p.endOfCommand()
}

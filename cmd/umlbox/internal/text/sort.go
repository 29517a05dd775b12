package text

import (
	"bufio"
	"bytes"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"github.com/umlkit/umlkit/cmd/umlbox/internal/file"
)

// key is one -k of sort: where it begins and ends in a line, and how it is
// compared.
type key struct {
	field, char       int // from 1
	endField, endChar int // 0: the end of the line; endChar 0: of the field
	order
}

type order struct {
	numeric, general, human, version, month bool
	reverse, fold, dictionary, blanks       bool
	printable                               bool
}

func (o order) plain() bool { return o == order{} }

type sorter struct {
	keys      []key
	global    order
	separator int // -1: the change from blank to non-blank
	stable    bool
	unique    bool
}

// Sort sorts lines.
func Sort(e *applet.Env, args []string) error {
	s := &sorter{separator: -1}
	var check, quietCheck, merge bool
	var output string
	end := byte('\n')
	var keys []string
	var o applet.Options
	for _, c := range []byte("nghVMrfdbi") {
		o.Func(c, "", func() { s.global.set(c) })
	}
	o.Func(0, "numeric-sort", func() { s.global.numeric = true })
	o.Func(0, "reverse", func() { s.global.reverse = true })
	o.Func(0, "ignore-case", func() { s.global.fold = true })
	o.Func(0, "version-sort", func() { s.global.version = true })
	o.Func(0, "human-numeric-sort", func() { s.global.human = true })
	o.Bool(&s.unique, 'u', "unique")
	o.Bool(&s.stable, 's', "stable")
	o.Bool(&check, 'c', "check")
	o.Bool(&quietCheck, 'C', "")
	o.Bool(&merge, 'm', "merge") // sorting again costs little on what is sorted
	o.String(&output, 'o', "output")
	o.Func('z', "zero-terminated", func() { end = 0 })
	o.Value('k', "key", func(text string) error { keys = append(keys, text); return nil })
	o.Value('t', "field-separator", func(text string) error {
		if text == `\0` {
			text = "\x00"
		}
		if len(text) != 1 {
			return applet.Usagef("multi-character tab %s", applet.Quote(text))
		}
		s.separator = int(text[0])
		return nil
	})
	files, err := o.Parse(args)
	if err != nil {
		return err
	}
	for _, text := range keys {
		k, err := parseKey(text)
		if err != nil {
			return err
		}
		if k.plain() {
			k.order = s.global
		}
		s.keys = append(s.keys, k)
	}
	var all [][]byte
	err = file.EachInput(e, files, func(r io.Reader) error {
		return lines(r, end, func(line []byte, ended bool) bool {
			all = append(all, bytes.Clone(line))
			return true
		})
	})
	if err != nil {
		return err
	}
	if check || quietCheck {
		for i := 1; i < len(all); i++ {
			if c := s.compare(all[i-1], all[i]); c > 0 || c == 0 && s.unique {
				if check {
					name := "-"
					if len(files) > 0 {
						name = files[0]
					}
					e.Warnf("%s:%d: disorder: %s", name, i+1, all[i])
				}
				return applet.Status(1)
			}
		}
		return nil
	}
	slices.SortStableFunc(all, s.compare)
	if s.unique {
		all = slices.CompactFunc(all, func(a, b []byte) bool { return s.compare(a, b) == 0 })
	}
	if e.Failed() {
		return nil // a file is missing: no half result
	}
	if output == "" {
		return writeLines(e.Stdout, all, end)
	}
	// All input was read before, so that the output may be one of the files.
	f, err := os.Create(output)
	if err != nil {
		return err
	}
	b := bufio.NewWriterSize(f, 64<<10)
	writeLines(b, all, end)
	if err := b.Flush(); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

func writeLines(w interface {
	io.Writer
	io.ByteWriter
}, all [][]byte, end byte) error {
	for _, l := range all {
		w.Write(l)
		if err := w.WriteByte(end); err != nil {
			return err
		}
	}
	return nil
}

func (o *order) set(c byte) bool {
	switch c {
	case 'n':
		o.numeric = true
	case 'g':
		o.general = true
	case 'h':
		o.human = true
	case 'V':
		o.version = true
	case 'M':
		o.month = true
	case 'r':
		o.reverse = true
	case 'f':
		o.fold = true
	case 'd':
		o.dictionary = true
	case 'b':
		o.blanks = true
	case 'i':
		o.printable = true
	default:
		return false
	}
	return true
}

// parseKey reads F[.C][OPTS][,F[.C][OPTS]].
func parseKey(text string) (key, error) {
	var k key
	wrong := applet.Usagef("invalid key %s", applet.Quote(text))
	begin, end, has := strings.Cut(text, ",")
	var ok bool
	if k.field, k.char, ok = k.position(begin, 1); !ok || k.field == 0 || k.char == 0 {
		return k, wrong
	}
	if has {
		if k.endField, k.endChar, ok = k.position(end, 0); !ok || k.endField == 0 {
			return k, wrong
		}
	}
	return k, nil
}

func (k *key) position(s string, char int) (int, int, bool) {
	i := 0
	for i < len(s) && (s[i] >= '0' && s[i] <= '9' || s[i] == '.') {
		i++
	}
	for _, c := range []byte(s[i:]) {
		if !k.set(c) {
			return 0, 0, false
		}
	}
	f, c, has := strings.Cut(s[:i], ".")
	field, err := strconv.Atoi(f)
	if err != nil {
		return 0, 0, false
	}
	if has {
		if char, err = strconv.Atoi(c); err != nil {
			return 0, 0, false
		}
	}
	return field, char, true
}

func (s *sorter) compare(a, b []byte) int {
	if len(s.keys) == 0 {
		if c := s.global.compare(a, b); c != 0 {
			return c
		}
	}
	for i := range s.keys {
		k := &s.keys[i]
		if c := k.compare(s.part(a, k), s.part(b, k)); c != 0 {
			return c
		}
	}
	if s.stable || s.unique {
		return 0
	}
	c := bytes.Compare(a, b) // the last resort
	if s.global.reverse {
		c = -c
	}
	return c
}

// part is what a key selects of a line.
func (s *sorter) part(line []byte, k *key) []byte {
	begin := s.offset(line, k.field, k.char, k.blanks)
	end := len(line)
	if k.endField > 0 {
		if k.endChar == 0 {
			_, end = s.fieldAt(line, k.endField)
		} else {
			end = min(s.offset(line, k.endField, k.endChar, k.blanks)+1, len(line))
		}
	}
	if begin >= end {
		return nil
	}
	return line[begin:end]
}

func (s *sorter) offset(line []byte, field, char int, blanks bool) int {
	begin, _ := s.fieldAt(line, field)
	if blanks {
		for begin < len(line) && blank(line[begin]) {
			begin++
		}
	}
	return min(begin+char-1, len(line))
}

// fieldAt finds a field, counted from 1. Without a separator the blanks before
// a field are part of it.
func (s *sorter) fieldAt(line []byte, n int) (begin, end int) {
	pos := 0
	for {
		begin = pos
		if s.separator >= 0 {
			for pos < len(line) && line[pos] != byte(s.separator) {
				pos++
			}
		} else {
			for pos < len(line) && blank(line[pos]) {
				pos++
			}
			for pos < len(line) && !blank(line[pos]) {
				pos++
			}
		}
		if n--; n == 0 {
			return begin, pos
		}
		if pos >= len(line) {
			return len(line), len(line)
		}
		if s.separator >= 0 {
			pos++
		}
	}
}

func blank(c byte) bool { return c == ' ' || c == '\t' || c == '\n' }

func (o order) compare(a, b []byte) int {
	var c int
	switch {
	case o.numeric:
		c = compareNumbers(a, b)
	case o.general:
		c = compareFloats(general(a), general(b))
	case o.human:
		c = compareHuman(a, b)
	case o.month:
		c = month(a) - month(b)
	default:
		a, b = o.translate(a), o.translate(b)
		if o.version {
			c = compareVersions(a, b)
		} else {
			c = bytes.Compare(a, b)
		}
	}
	if o.reverse {
		return -c
	}
	return c
}

func (o order) translate(s []byte) []byte {
	if o.blanks {
		s = bytes.TrimLeft(s, " \t")
	}
	if o.dictionary || o.printable {
		s = bytes.Map(func(r rune) rune {
			word := r == ' ' || r == '\t' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
			if o.dictionary && !word || o.printable && (r < ' ' || r > '~') {
				return -1
			}
			return r
		}, s)
	}
	if o.fold {
		s = bytes.ToUpper(s)
	}
	return s
}

// number splits a decimal number of any length from the beginning of s.
func number(s []byte) (negative bool, whole, fraction, rest []byte) {
	s = bytes.TrimLeft(s, " \t")
	if len(s) > 0 && s[0] == '-' {
		negative, s = true, s[1:]
	}
	i := 0
	for i < len(s) && s[i] >= '0' && s[i] <= '9' {
		i++
	}
	whole, s = bytes.TrimLeft(s[:i], "0"), s[i:]
	if len(s) > 0 && s[0] == '.' {
		i = 1
		for i < len(s) && s[i] >= '0' && s[i] <= '9' {
			i++
		}
		fraction, s = bytes.TrimRight(s[1:i], "0"), s[i:]
	}
	if len(whole) == 0 && len(fraction) == 0 {
		negative = false
	}
	return negative, whole, fraction, s
}

func compareNumbers(a, b []byte) int {
	na, wa, fa, _ := number(a)
	nb, wb, fb, _ := number(b)
	if na != nb {
		if na {
			return -1
		}
		return 1
	}
	c := len(wa) - len(wb)
	if c == 0 {
		c = bytes.Compare(wa, wb)
	}
	if c == 0 {
		c = bytes.Compare(fa, fb)
	}
	if na {
		return -c
	}
	return c
}

func general(s []byte) float64 {
	t := strings.TrimLeft(string(s), " \t")
	for n := len(t); n > 0; n-- {
		if v, err := strconv.ParseFloat(t[:n], 64); err == nil {
			return v
		}
		if hex := strings.TrimLeft(t[:n], "+-"); len(hex) > 2 && (hex[:2] == "0x" || hex[:2] == "0X") {
			if v, err := strconv.ParseFloat(t[:n]+"p0", 64); err == nil {
				return v
			}
		}
		if n > 64 {
			n = 65
		}
	}
	return math.Inf(-1) // what is no number comes first
}

func compareFloats(a, b float64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func compareHuman(a, b []byte) int {
	na, _, _, ra := number(a)
	nb, _, _, rb := number(b)
	power := func(rest []byte) int {
		if len(rest) == 0 {
			return 0
		}
		return strings.IndexByte("KMGTPEZY", rest[0]&^0x20) + 1
	}
	pa, pb := power(ra), power(rb)
	if na {
		pa = -pa
	}
	if nb {
		pb = -pb
	}
	if na == nb && pa != pb {
		return pa - pb
	}
	return compareNumbers(a, b)
}

func month(s []byte) int {
	t := strings.ToUpper(strings.TrimLeft(string(s), " \t"))
	if len(t) < 3 {
		return 0
	}
	return (strings.Index("JANFEBMARAPRMAYJUNJULAUGSEPOCTNOVDEC", t[:3]) + 3) / 3
}

// compareVersions compares runs of digits as numbers and the rest as text.
func compareVersions(a, b []byte) int {
	digit := func(c byte) bool { return c >= '0' && c <= '9' }
	for len(a) > 0 && len(b) > 0 {
		if digit(a[0]) && digit(b[0]) {
			i, j := 0, 0
			for i < len(a) && digit(a[i]) {
				i++
			}
			for j < len(b) && digit(b[j]) {
				j++
			}
			if c := compareNumbers(a[:i], b[:j]); c != 0 {
				return c
			}
			a, b = a[i:], b[j:]
			continue
		}
		if a[0] != b[0] {
			return int(a[0]) - int(b[0])
		}
		a, b = a[1:], b[1:]
	}
	return len(a) - len(b)
}

package text

import (
	"bytes"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"github.com/umlkit/umlkit/cmd/umlbox/internal/file"
)

// ranges are numbers from 1, as cut -f takes them: 1,3-5,7-,-2.
type ranges [][2]int

func parseRanges(list string) (ranges, error) {
	var rs ranges
	for part := range strings.FieldsFuncSeq(list, func(r rune) bool { return r == ',' || r == ' ' }) {
		from, to, has := strings.Cut(part, "-")
		r := [2]int{1, math.MaxInt}
		var err error
		if from != "" {
			if r[0], err = strconv.Atoi(from); err != nil || r[0] < 1 {
				return nil, applet.Usagef("invalid range %s", applet.Quote(part))
			}
		}
		switch {
		case !has:
			r[1] = r[0]
		case to != "":
			if r[1], err = strconv.Atoi(to); err != nil || r[1] < r[0] {
				return nil, applet.Usagef("invalid range %s", applet.Quote(part))
			}
		case from == "":
			return nil, applet.Usagef("invalid range with no endpoint: -")
		}
		rs = append(rs, r)
	}
	if len(rs) == 0 {
		return nil, applet.Usagef("an empty list of ranges")
	}
	return rs, nil
}

func (rs ranges) has(n int) bool {
	for _, r := range rs {
		if n >= r[0] && n <= r[1] {
			return true
		}
	}
	return false
}

// Cut copies parts of lines.
func Cut(e *applet.Env, args []string) error {
	var kind byte
	var list, outDelimiter string
	var onlyDelimited, complement, hasOut bool
	delimiter := []byte{'\t'}
	end := byte('\n')
	var o applet.Options
	pick := func(k byte) func(string) error {
		return func(s string) error {
			if kind != 0 {
				return applet.Usagef("only one type of list may be specified")
			}
			kind, list = k, s
			return nil
		}
	}
	o.Value('b', "bytes", pick('b'))
	o.Value('c', "characters", pick('c'))
	o.Value('f', "fields", pick('f'))
	o.Value('d', "delimiter", func(s string) error {
		if s == "" {
			s = "\x00"
		}
		if utf8.RuneCountInString(s) != 1 {
			return applet.Usagef("the delimiter must be a single character")
		}
		delimiter = []byte(s)
		return nil
	})
	o.Bool(&onlyDelimited, 's', "only-delimited")
	o.Bool(&complement, 0, "complement")
	o.Value(0, "output-delimiter", func(s string) error { outDelimiter, hasOut = s, true; return nil })
	o.Func('z', "zero-terminated", func() { end = 0 })
	files, err := o.Parse(args)
	if err != nil {
		return err
	}
	if kind == 0 {
		return applet.Usagef("you must specify a list of bytes, characters, or fields")
	}
	rs, err := parseRanges(list)
	if err != nil {
		return err
	}
	if !hasOut && kind == 'f' {
		outDelimiter = string(delimiter)
	}
	w := e.Stdout
	return file.EachInput(e, files, func(r io.Reader) error {
		return lines(r, end, func(line []byte, ended bool) bool {
			if kind != 'f' {
				before := false // the byte before was wanted
				any := false
				for i, c := range line {
					if rs.has(i+1) == complement {
						before = false
						continue
					}
					if !before && any {
						w.WriteString(outDelimiter)
					}
					before, any = true, true
					w.WriteByte(c)
				}
				w.WriteByte(end)
				return true
			}
			if !bytes.Contains(line, delimiter) {
				if !onlyDelimited {
					w.Write(line)
					w.WriteByte(end)
				}
				return true
			}
			first := true
			for i, f := range bytes.Split(line, delimiter) {
				if rs.has(i+1) == complement {
					continue
				}
				if !first {
					w.WriteString(outDelimiter)
				}
				first = false
				w.Write(f)
			}
			w.WriteByte(end)
			return true
		})
	})
}

package text

import (
	"bytes"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"github.com/umlkit/umlkit/cmd/umlbox/internal/file"
)

type counts struct {
	lines, words, chars, bytes, longest int64
	name                                string
}

// Wc counts lines, words and bytes.
func Wc(e *applet.Env, args []string) error {
	var l, w, m, c, longest bool
	var o applet.Options
	o.Bool(&l, 'l', "lines")
	o.Bool(&w, 'w', "words")
	o.Bool(&m, 'm', "chars")
	o.Bool(&c, 'c', "bytes")
	o.Bool(&longest, 'L', "max-line-length")
	names, err := o.Parse(args)
	if err != nil {
		return err
	}
	if !l && !w && !m && !c && !longest {
		l, w, c = true, true, true
	}
	var all []counts
	var total counts
	regular, sum := true, int64(0)
	err = file.EachNamed(e, names, func(name string, r io.Reader) error {
		f, _ := r.(*os.File)
		if st, err := f.Stat(); err == nil && st.Mode().IsRegular() {
			sum += st.Size()
		} else {
			regular = false
		}
		x, err := count(r, l && !w && !m && !longest, c && !l && !w && !m && !longest)
		x.name = name
		if len(names) == 0 {
			x.name = ""
		}
		all = append(all, x)
		total.lines += x.lines
		total.words += x.words
		total.chars += x.chars
		total.bytes += x.bytes
		total.longest = max(total.longest, x.longest)
		return err
	})
	if err != nil {
		return err
	}
	// As wide as the size of all files needs; 7 where that is not known.
	columns := 0
	for _, on := range []bool{l, w, m, c, longest} {
		if on {
			columns++
		}
	}
	width := len(strconv.FormatInt(sum, 10))
	if !regular {
		width = max(width, 7)
	}
	if columns == 1 && len(names) <= 1 {
		width = 1
	}
	if len(names) > 1 {
		total.name = "total"
		all = append(all, total)
	}
	for _, x := range all {
		var cells []string
		for _, v := range []struct {
			on bool
			n  int64
		}{{l, x.lines}, {w, x.words}, {m, x.chars}, {c, x.bytes}, {longest, x.longest}} {
			if v.on {
				s := strconv.FormatInt(v.n, 10)
				cells = append(cells, strings.Repeat(" ", max(width-len(s), 0))+s)
			}
		}
		if x.name != "" {
			cells = append(cells, x.name)
		}
		e.Stdout.WriteString(strings.Join(cells, " ") + "\n")
	}
	return nil
}

// count reads r to its end. Lines or bytes alone are counted faster.
func count(r io.Reader, onlyLines, onlyBytes bool) (counts, error) {
	var x counts
	if f, ok := r.(*os.File); ok && onlyBytes {
		if st, err := f.Stat(); err == nil && st.Mode().IsRegular() && st.Size() > 0 {
			if pos, err := f.Seek(0, io.SeekCurrent); err == nil {
				f.Seek(0, io.SeekEnd)
				x.bytes = max(st.Size()-pos, 0)
				return x, nil
			}
		}
	}
	buf := make([]byte, 128<<10)
	inWord, column := false, int64(0)
	rest := 0 // bytes of an incomplete character at the buffer's beginning
	for {
		n, err := r.Read(buf[rest:])
		x.bytes += int64(n)
		part := buf[:rest+n]
		rest = 0
		if onlyLines {
			x.lines += int64(bytes.Count(part, []byte{'\n'}))
			part = nil
		}
		for len(part) > 0 {
			c, size := rune(part[0]), 1
			if c >= utf8.RuneSelf {
				if !utf8.FullRune(part) && err == nil {
					break
				}
				c, size = utf8.DecodeRune(part)
			}
			part = part[size:]
			if c != utf8.RuneError || size > 1 {
				x.chars++
			}
			switch c {
			case '\n', '\r', '\f':
				if c == '\n' {
					x.lines++
				}
				x.longest = max(x.longest, column)
				column, inWord = 0, false
			case '\t':
				column += 8 - column%8
				inWord = false
			case ' ', '\v':
				column++
				inWord = false
			default:
				if !inWord && c > ' ' && c != 0x7f {
					x.words++
					inWord = true
				}
				if c >= ' ' {
					column++
				}
			}
		}
		rest = copy(buf, part)
		if err != nil {
			x.longest = max(x.longest, column)
			if err == io.EOF {
				err = nil
			}
			return x, err
		}
	}
}

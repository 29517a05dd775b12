package text

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"strings"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"github.com/umlkit/umlkit/cmd/umlbox/internal/file"
)

// Base64 encodes and decodes.
func Base64(e *applet.Env, args []string) error {
	var decode, ignore bool
	wrap := 76
	var o applet.Options
	o.Bool(&decode, 'd', "decode")
	o.Bool(&ignore, 'i', "ignore-garbage")
	o.Int(&wrap, 'w', "wrap")
	files, err := o.Parse(args)
	if err != nil {
		return err
	}
	if len(files) > 1 {
		return applet.Usagef("extra operand %s", applet.Quote(files[1]))
	}
	return file.EachInput(e, files, func(r io.Reader) error {
		if decode {
			if ignore {
				r = &sieve{r}
			}
			_, err := io.Copy(e.Stdout, base64.NewDecoder(base64.StdEncoding, r))
			if err != nil {
				e.Stdout.Flush()
				return fmt.Errorf("invalid input")
			}
			return nil
		}
		w := &wrapper{w: e.Stdout, width: wrap}
		enc := base64.NewEncoder(base64.StdEncoding, w)
		if _, err := io.Copy(enc, r); err != nil {
			return err
		}
		enc.Close()
		if w.column > 0 && wrap > 0 {
			e.Stdout.WriteByte('\n')
		}
		return nil
	})
}

// sieve passes only the letters of the alphabet of base64.
type sieve struct{ r io.Reader }

func (s *sieve) Read(p []byte) (int, error) {
	for {
		n, err := s.r.Read(p)
		out := p[:0]
		for _, c := range p[:n] {
			if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '+' || c == '/' || c == '=' {
				out = append(out, c)
			}
		}
		if len(out) > 0 || err != nil {
			return len(out), err
		}
	}
}

type wrapper struct {
	w             *applet.Writer
	width, column int
}

func (w *wrapper) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 {
		n := len(p)
		if w.width > 0 {
			n = min(n, w.width-w.column)
		}
		if _, err := w.w.Write(p[:n]); err != nil {
			return 0, err
		}
		p = p[n:]
		if w.column += n; w.column == w.width {
			w.w.WriteByte('\n')
			w.column = 0
		}
	}
	return total, nil
}

// Hexdump shows bytes: -C with their characters, else as 16-bit words.
func Hexdump(e *applet.Env, args []string) error {
	var canonical, all bool
	var limit, skip int64 = -1, 0
	var o applet.Options
	o.Bool(&canonical, 'C', "canonical")
	o.Bool(&all, 'v', "no-squeezing")
	o.Value('n', "length", func(s string) (err error) { limit, err = applet.Size(s); return err })
	o.Value('s', "skip", func(s string) (err error) { skip, err = applet.Size(s); return err })
	files, err := o.Parse(args)
	if err != nil {
		return err
	}
	if e.Name == "hd" {
		canonical = true
	}
	d := &dumper{w: e.Stdout, all: all, canonical: canonical, limit: limit, skip: skip, pos: skip}
	if err := file.EachInput(e, files, d.add); err != nil {
		return err
	}
	d.end()
	return nil
}

type dumper struct {
	w              *applet.Writer
	all, canonical bool
	limit, skip    int64
	pos            int64 // of the first byte in part
	part           []byte
	last           []byte
	starred        bool
}

func (d *dumper) add(r io.Reader) error {
	buf := make([]byte, 32<<10)
	for d.limit != 0 {
		n, err := r.Read(buf)
		p := buf[:n]
		cut := min(d.skip, int64(len(p)))
		d.skip -= cut
		p = p[cut:]
		if d.limit >= 0 {
			p = p[:min(d.limit, int64(len(p)))]
			d.limit -= int64(len(p))
		}
		for len(p) > 0 {
			k := min(16-len(d.part), len(p))
			d.part = append(d.part, p[:k]...)
			p = p[k:]
			if len(d.part) == 16 {
				d.row()
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (d *dumper) end() {
	if len(d.part) > 0 {
		d.row()
	}
	if d.last != nil {
		d.w.WriteString(d.address() + "\n")
	}
}

func (d *dumper) address() string {
	if d.canonical {
		return fmt.Sprintf("%08x", d.pos)
	}
	return fmt.Sprintf("%07x", d.pos)
}

func (d *dumper) row() {
	p := d.part
	if !d.all && len(p) == 16 && bytes.Equal(p, d.last) {
		if !d.starred {
			d.w.WriteString("*\n")
			d.starred = true
		}
	} else {
		d.starred = false
		d.w.WriteString(d.address())
		if d.canonical {
			for i := range 16 {
				if i%8 == 0 {
					d.w.WriteByte(' ')
				}
				if i < len(p) {
					fmt.Fprintf(d.w, " %02x", p[i])
				} else {
					d.w.WriteString("   ")
				}
			}
			d.w.WriteString("  |" + printable(p) + "|\n")
		} else {
			for i := 0; i < 16; i += 2 {
				switch {
				case i+1 < len(p):
					fmt.Fprintf(d.w, " %02x%02x", p[i+1], p[i])
				case i < len(p):
					fmt.Fprintf(d.w, " 00%02x", p[i])
				default:
					d.w.WriteString("     ")
				}
			}
			d.w.WriteByte('\n')
		}
	}
	d.last = append(d.last[:0], p...)
	d.pos += int64(len(p))
	d.part = d.part[:0]
}

func printable(p []byte) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '.'
		}
		return r
	}, latin(p))
}

// latin makes one character of every byte.
func latin(p []byte) string {
	r := make([]rune, len(p))
	for i, c := range p {
		r[i] = rune(c)
	}
	return string(r)
}

// Xxd shows bytes in hexadecimal, and turns such a dump back into bytes.
func Xxd(e *applet.Env, args []string) error {
	var plain, reverse, upper bool
	columns, group, limit, seek := 0, 2, int64(-1), int64(0)
	var o applet.Options
	o.Bool(&plain, 'p', "ps")
	o.Bool(&reverse, 'r', "revert")
	o.Bool(&upper, 'u', "")
	o.Int(&columns, 'c', "cols")
	o.Int(&group, 'g', "groupsize")
	o.Value('l', "len", func(s string) (err error) { limit, err = applet.Size(s); return err })
	o.Value('s', "seek", func(s string) (err error) { seek, err = applet.Size(s); return err })
	files, err := o.Parse(args)
	if err != nil {
		return err
	}
	if columns <= 0 {
		columns = 16
		if plain {
			columns = 30
		}
	}
	if len(files) > 1 || columns > 256 {
		return applet.Usagef("one file, and at most 256 columns")
	}
	if group <= 0 {
		group = columns
	}
	return file.EachInput(e, files, func(r io.Reader) error {
		if reverse {
			return unhex(e.Stdout, r, plain)
		}
		if _, err := io.CopyN(io.Discard, r, seek); err != nil {
			if err == io.EOF {
				return nil
			}
			return err
		}
		if limit >= 0 {
			r = io.LimitReader(r, limit)
		}
		row := make([]byte, columns)
		for pos := seek; ; pos += int64(columns) {
			n, err := io.ReadFull(r, row)
			if n > 0 {
				xxdRow(e.Stdout, pos, row[:n], columns, group, plain, upper)
			}
			if err == io.EOF || err == io.ErrUnexpectedEOF {
				return nil
			}
			if err != nil {
				return err
			}
		}
	})
}

func xxdRow(w *applet.Writer, pos int64, p []byte, columns, group int, plain, upper bool) {
	text := hex.EncodeToString(p)
	if upper {
		text = strings.ToUpper(text)
	}
	if plain {
		w.WriteString(text + "\n")
		return
	}
	var b strings.Builder
	for i := range columns {
		if i < len(p) {
			b.WriteString(text[2*i : 2*i+2])
		} else {
			b.WriteString("  ")
		}
		if (i+1)%group == 0 {
			b.WriteByte(' ')
		}
	}
	if columns%group != 0 {
		b.WriteByte(' ')
	}
	fmt.Fprintf(w, "%08x: %s %s\n", pos, b.String(), printable(p))
}

// unhex reads a dump: the pairs of digits behind the address, up to two
// spaces, or all digits of a plain one.
func unhex(w io.Writer, r io.Reader, plain bool) error {
	var failed error
	err := lines(r, '\n', func(line []byte, _ bool) bool {
		text := string(line)
		if !plain {
			_, rest, ok := strings.Cut(text, ":")
			if !ok {
				return true
			}
			text, _, _ = strings.Cut(strings.TrimPrefix(rest, " "), "  ")
		}
		text = strings.Map(func(r rune) rune {
			if r == ' ' || r == '\t' || r == '\r' {
				return -1
			}
			return r
		}, text)
		b, err := hex.DecodeString(text)
		if err != nil {
			failed = fmt.Errorf("%q is not hexadecimal", text)
			return false
		}
		_, err = w.Write(b)
		return err == nil
	})
	if err == nil {
		err = failed
	}
	return err
}

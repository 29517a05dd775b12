package text

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"github.com/umlkit/umlkit/cmd/umlbox/internal/clock"
	"github.com/umlkit/umlkit/cmd/umlbox/internal/file"
)

// titles writes the "==> name <==" lines between files.
type titles struct {
	on    bool
	shown bool
}

func (t *titles) write(w io.Writer, name string) {
	if !t.on {
		return
	}
	if name == "-" {
		name = "standard input"
	}
	if t.shown {
		fmt.Fprintln(w)
	}
	t.shown = true
	fmt.Fprintf(w, "==> %s <==\n", name)
}

// Head copies the beginning of files.
func Head(e *applet.Env, args []string) error {
	n, bytes, fromEnd := int64(10), false, false
	var quiet, verbose bool
	end := byte('\n')
	count := func(inBytes bool) func(string) error {
		return func(s string) (err error) {
			bytes = inBytes
			s, fromEnd = strings.CutPrefix(s, "-")
			n, err = applet.Size(s)
			return err
		}
	}
	var o applet.Options
	o.Value('n', "lines", count(false))
	o.Value('c', "bytes", count(true))
	o.Bool(&quiet, 'q', "quiet")
	o.Bool(&verbose, 'v', "verbose")
	o.Func('z', "zero-terminated", func() { end = 0 })
	files, err := o.Parse(applet.NumberFlag(args))
	if err != nil {
		return err
	}
	title := titles{on: (len(files) > 1 || verbose) && !quiet}
	return file.EachNamed(e, files, func(name string, r io.Reader) error {
		title.write(e.Stdout, name)
		switch {
		case bytes && !fromEnd:
			_, err := e.Stdout.ReadFrom(io.LimitReader(r, n))
			return err
		case bytes:
			return headAllBut(e.Stdout, r, int(min(n, 1<<30)))
		case fromEnd:
			return headLinesBut(e.Stdout, r, int(min(n, 1<<30)), end)
		case n == 0:
			return nil
		}
		left := n
		f, _ := r.(*os.File)
		var used int64
		begin, seekErr := f.Seek(0, io.SeekCurrent)
		err := lines(r, end, func(line []byte, ended bool) bool {
			e.Stdout.Write(line)
			used += int64(len(line))
			if ended {
				e.Stdout.WriteByte(end)
				used++
			}
			left--
			return left > 0
		})
		// What was read too far belongs to whoever reads next.
		if seekErr == nil && err == nil {
			_, err = f.Seek(begin+used, io.SeekStart)
		}
		return err
	})
}

// headAllBut copies all but the last n bytes.
func headAllBut(w io.Writer, r io.Reader, n int) error {
	var held []byte
	buf := make([]byte, 64<<10)
	for {
		k, err := r.Read(buf)
		held = append(held, buf[:k]...)
		if out := len(held) - n; out > 0 {
			w.Write(held[:out])
			held = append(held[:0], held[out:]...)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func headLinesBut(w io.Writer, r io.Reader, n int, end byte) error {
	var held [][]byte
	return lines(r, end, func(line []byte, ended bool) bool {
		l := append([]byte{}, line...)
		if ended {
			l = append(l, end)
		}
		held = append(held, l)
		if len(held) > n {
			w.Write(held[0])
			held[0] = nil
			held = held[1:]
		}
		return true
	})
}

// Tail copies the end of files, and with -f what is added to them.
func Tail(e *applet.Env, args []string) error {
	n, bytes, fromStart := int64(10), false, false
	var quiet, verbose, follow, retry bool
	interval := time.Second
	count := func(inBytes bool) func(string) error {
		return func(s string) (err error) {
			bytes = inBytes
			s, fromStart = strings.CutPrefix(s, "+")
			n, err = applet.Size(strings.TrimPrefix(s, "-"))
			return err
		}
	}
	if len(args) > 0 && len(args[0]) > 1 && args[0][0] == '+' {
		args = append([]string{"-n", args[0]}, args[1:]...)
	}
	var o applet.Options
	o.Value('n', "lines", count(false))
	o.Value('c', "bytes", count(true))
	o.Bool(&quiet, 'q', "quiet")
	o.Bool(&verbose, 'v', "verbose")
	o.Bool(&follow, 'f', "follow")
	o.Func('F', "", func() { follow, retry = true, true })
	o.Value('s', "sleep-interval", func(s string) (err error) { interval, err = clock.Duration(s); return err })
	files, err := o.Parse(applet.NumberFlag(args))
	if err != nil {
		return err
	}
	title := titles{on: (len(files) > 1 || verbose) && !quiet}
	ends := map[string]int64{}
	err = file.EachNamed(e, files, func(name string, r io.Reader) error {
		title.write(e.Stdout, name)
		err := tail(e.Stdout, r, n, bytes, fromStart)
		if f, ok := r.(*os.File); ok {
			if pos, serr := f.Seek(0, io.SeekCurrent); serr == nil {
				ends[name] = pos
			}
		}
		return err
	})
	if err != nil || !follow || len(files) == 0 {
		return err
	}
	e.Stdout.Flush()
	return followFiles(e, files, ends, &title, interval, retry)
}

func tail(w *applet.Writer, r io.Reader, n int64, bytes, fromStart bool) error {
	if fromStart {
		if bytes {
			if _, err := io.CopyN(io.Discard, r, max(n-1, 0)); err != nil && err != io.EOF {
				return err
			}
			_, err := w.ReadFrom(r)
			return err
		}
		left := n - 1
		return lines(r, '\n', func(line []byte, ended bool) bool {
			if left > 0 {
				left--
				return true
			}
			w.Write(line)
			if ended {
				w.WriteByte('\n')
			}
			return true
		})
	}
	if f, ok := r.(*os.File); ok {
		if st, err := f.Stat(); err == nil && st.Mode().IsRegular() && st.Size() > 0 {
			off := max(st.Size()-n, 0)
			if !bytes {
				if off, err = lastLines(f, st.Size(), n); err != nil {
					return err
				}
			}
			if _, err := f.Seek(off, io.SeekStart); err == nil {
				_, err = w.ReadFrom(f)
				return err
			}
		}
	}
	if bytes {
		return tailBytes(w, r, int(min(n, 1<<30)))
	}
	var held [][]byte
	err := lines(r, '\n', func(line []byte, ended bool) bool {
		l := append([]byte{}, line...)
		if ended {
			l = append(l, '\n')
		}
		held = append(held, l)
		if int64(len(held)) > n {
			held[0] = nil
			held = held[1:]
		}
		return true
	})
	for _, l := range held {
		w.Write(l)
	}
	return err
}

// lastLines finds where the last n lines of a file begin, from its end.
func lastLines(f *os.File, size, n int64) (int64, error) {
	if n == 0 {
		return size, nil
	}
	buf := make([]byte, 64<<10)
	for end := size; end > 0; {
		begin := max(end-int64(len(buf)), 0)
		part := buf[:end-begin]
		if _, err := f.ReadAt(part, begin); err != nil && err != io.EOF {
			return 0, err
		}
		for i := len(part) - 1; i >= 0; i-- {
			if part[i] != '\n' || begin+int64(i) == size-1 {
				continue
			}
			if n--; n == 0 {
				return begin + int64(i) + 1, nil
			}
		}
		end = begin
	}
	return 0, nil
}

func tailBytes(w io.Writer, r io.Reader, n int) error {
	var held []byte
	buf := make([]byte, 64<<10)
	for {
		k, err := r.Read(buf)
		held = append(held, buf[:k]...)
		if out := len(held) - n; out > 0 {
			held = append(held[:0], held[out:]...)
		}
		if err == io.EOF {
			_, err = w.Write(held)
			return err
		}
		if err != nil {
			return err
		}
	}
}

// followFiles shows what is added to files, for ever. A file that became
// shorter is read again from its beginning; with retry one that was replaced too.
func followFiles(e *applet.Env, names []string, ends map[string]int64, title *titles, interval time.Duration, retry bool) error {
	type followed struct {
		name string
		f    *os.File
		pos  int64
	}
	var all []*followed
	for _, name := range names {
		x := &followed{name: name, pos: ends[name]}
		if name == "-" {
			x.f = os.Stdin
		} else {
			x.f, _ = os.Open(name) // reported by the first reading
		}
		if x.f != nil || retry {
			all = append(all, x)
		}
	}
	if len(all) == 0 {
		return nil
	}
	last := names[len(names)-1]
	for ; ; time.Sleep(interval) {
		for _, x := range all {
			if retry && x.name != "-" {
				if f, err := os.Open(x.name); err == nil {
					old, new := (os.FileInfo)(nil), (os.FileInfo)(nil)
					if x.f != nil {
						old, _ = x.f.Stat()
					}
					new, _ = f.Stat()
					if old == nil || new != nil && !os.SameFile(old, new) {
						if x.f != nil {
							x.f.Close()
						}
						x.f, x.pos = f, 0
					} else {
						f.Close()
					}
				}
			}
			if x.f == nil {
				continue
			}
			if st, err := x.f.Stat(); err == nil && st.Mode().IsRegular() && st.Size() < x.pos {
				fmt.Fprintf(e.Stderr, "tail: %s: file truncated\n", x.name)
				x.pos = 0
			}
			x.f.Seek(x.pos, io.SeekStart)
			buf := make([]byte, 32<<10)
			for {
				n, err := x.f.Read(buf)
				if n > 0 {
					if last != x.name {
						title.write(e.Stdout, x.name)
						last = x.name
					}
					x.pos += int64(n)
					e.Stdout.Write(buf[:n])
				}
				if n == 0 || err != nil {
					break
				}
			}
		}
		if err := e.Stdout.Flush(); err != nil {
			return err
		}
	}
}

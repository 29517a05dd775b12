package file

import (
	"bufio"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"golang.org/x/sys/unix"
)

// Mktemp makes a file or directory with a name of its own.
func Mktemp(e *applet.Env, args []string) error {
	var dir, dry, quiet, inTmp bool
	var base, suffix string
	var o applet.Options
	o.Bool(&dir, 'd', "directory")
	o.Bool(&dry, 'u', "dry-run")
	o.Bool(&quiet, 'q', "quiet")
	o.Bool(&inTmp, 't', "")
	o.Value('p', "tmpdir", func(s string) error { base, inTmp = s, true; return nil })
	o.String(&suffix, 0, "suffix")
	operands, err := o.Parse(args)
	if err != nil {
		return err
	}
	template := "tmp.XXXXXXXXXX"
	switch len(operands) {
	case 0:
		inTmp = true
	case 1:
		template = operands[0]
	default:
		return applet.Usagef("too many templates")
	}
	if inTmp {
		if base == "" {
			base = os.TempDir()
		}
		template = filepath.Join(base, template)
	}
	end := strings.LastIndexByte(template, 'X') + 1
	begin := len(strings.TrimRight(template[:end], "X"))
	if end-begin < 3 {
		return fmt.Errorf("too few X's in template %s", applet.Quote(template))
	}
	tail := template[end:] + suffix
	for range 1000 {
		name := template[:begin] + random(end-begin) + tail
		var err error
		switch {
		case dry:
			if _, serr := os.Lstat(name); serr == nil {
				err = os.ErrExist
			}
		case dir:
			err = os.Mkdir(name, 0o700)
		default:
			var f *os.File
			if f, err = os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); err == nil {
				err = f.Close()
			}
		}
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err != nil {
			if quiet {
				return applet.Status(1)
			}
			kind := "file"
			if dir {
				kind = "directory"
			}
			return fmt.Errorf("failed to create %s via template %s: %s", kind, applet.Quote(template+suffix), applet.Reason(err))
		}
		line(e, name, false)
		return nil
	}
	return fmt.Errorf("no free name for template %s", applet.Quote(template))
}

func random(n int) string {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	b := make([]byte, n)
	rand.Read(b)
	for i := range b {
		b[i] = letters[int(b[i])%len(letters)]
	}
	return string(b)
}

// Truncate sets the sizes of files.
func Truncate(e *applet.Env, args []string) error {
	var noCreate bool
	var size, reference string
	var o applet.Options
	o.Bool(&noCreate, 'c', "no-create")
	o.String(&size, 's', "size")
	o.String(&reference, 'r', "reference")
	names, err := o.Parse(args)
	if err != nil {
		return err
	}
	if size == "" && reference == "" {
		return applet.Usagef("you must specify either '--size' or '--reference'")
	}
	if len(names) == 0 {
		return applet.Usagef("missing file operand")
	}
	var base, n int64
	op := byte(0)
	if size != "" {
		if strings.IndexByte("+-<>/%", size[0]) >= 0 {
			op, size = size[0], size[1:]
		}
		if n, err = applet.Size(size); err != nil {
			return err
		}
	}
	if reference != "" {
		st, err := os.Stat(reference)
		if err != nil {
			return err
		}
		base = st.Size()
	}
	for _, name := range names {
		flags := os.O_WRONLY | os.O_CREATE
		if noCreate {
			flags = os.O_WRONLY
		}
		f, err := os.OpenFile(name, flags, 0o666)
		if noCreate && errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			e.Warnf("cannot open %s for writing: %s", applet.Quote(name), applet.Reason(err))
			continue
		}
		from := base
		if reference == "" {
			if st, err := f.Stat(); err == nil {
				from = st.Size()
			}
		}
		if err := f.Truncate(newSize(op, from, n, size != "")); err != nil {
			e.Warnf("failed to truncate %s: %s", applet.Quote(name), applet.Reason(err))
		}
		f.Close()
	}
	return nil
}

func newSize(op byte, from, n int64, given bool) int64 {
	switch {
	case !given:
		return from
	case op == '+':
		return from + n
	case op == '-':
		return max(from-n, 0)
	case op == '<':
		return min(from, n)
	case op == '>':
		return max(from, n)
	case op == '/' && n > 0:
		return from / n * n
	case op == '%' && n > 0:
		return (from + n - 1) / n * n
	}
	return n
}

// Fallocate gives files space.
func Fallocate(e *applet.Env, args []string) error {
	var keep, punch, zero bool
	var length, offset int64
	var o applet.Options
	size := func(p *int64) func(string) error {
		return func(s string) (err error) { *p, err = applet.Size(s); return err }
	}
	o.Bool(&keep, 'n', "keep-size")
	o.Bool(&punch, 'p', "punch-hole")
	o.Bool(&zero, 'z', "zero-range")
	o.Value('l', "length", size(&length))
	o.Value('o', "offset", size(&offset))
	names, err := o.Parse(args)
	if err != nil {
		return err
	}
	if len(names) != 1 || length == 0 {
		return applet.Usagef("one file and -l are needed")
	}
	mode := uint32(0)
	if keep {
		mode |= unix.FALLOC_FL_KEEP_SIZE
	}
	if punch {
		mode |= unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	}
	if zero {
		mode |= unix.FALLOC_FL_ZERO_RANGE
	}
	f, err := os.OpenFile(names[0], os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), mode, offset, length); err != nil {
		return fmt.Errorf("fallocate failed: %s", applet.Reason(err))
	}
	return nil
}

// Cmp compares two files byte by byte.
func Cmp(e *applet.Env, args []string) error {
	var silent, list, show bool
	limit, skip := int64(-1), int64(0)
	var o applet.Options
	o.Bool(&silent, 's', "quiet")
	o.Bool(&list, 'l', "verbose")
	o.Bool(&show, 'b', "print-bytes")
	o.Value('n', "bytes", func(s string) (err error) { limit, err = applet.Size(s); return err })
	o.Value('i', "ignore-initial", func(s string) (err error) { skip, err = applet.Size(s); return err })
	names, err := o.Parse(args)
	if err != nil {
		return err
	}
	if len(names) == 1 {
		names = append(names, "-")
	}
	if len(names) != 2 {
		return applet.Usagef("two files are needed")
	}
	var in [2]*bufio.Reader
	width := 19 // of byte numbers: what the shorter file needs, if that is known
	for i, name := range names {
		r := e.Stdin
		if name != "-" {
			f, err := os.Open(name)
			if err != nil {
				if silent {
					return applet.Status(2)
				}
				return err
			}
			defer f.Close()
			if st, err := f.Stat(); err == nil && st.Mode().IsRegular() {
				width = min(width, len(strconv.FormatInt(st.Size(), 10)))
			}
			r = f
		}
		in[i] = bufio.NewReaderSize(r, 64<<10)
		if _, err := io.CopyN(io.Discard, in[i], skip); err != nil && err != io.EOF {
			return err
		}
	}
	lineNo, differ := int64(1), false
	for n := int64(1); limit < 0 || n <= limit; n++ {
		a, erra := in[0].ReadByte()
		b, errb := in[1].ReadByte()
		if erra == io.EOF || errb == io.EOF {
			if erra == errb {
				break
			}
			short := names[0]
			if errb == io.EOF {
				short = names[1]
			}
			if !silent {
				where := fmt.Sprintf("after byte %d", n-1)
				if n == 1 {
					where = "which is empty"
				} else if !list {
					where += fmt.Sprintf(", in line %d", lineNo)
				}
				e.Stdout.Flush()
				fmt.Fprintf(e.Stderr, "cmp: EOF on %s %s\n", applet.Quote(short), where)
			}
			return applet.Status(1)
		}
		if err := errors.Join(erra, errb); err != nil {
			return err
		}
		if a != b {
			switch {
			case silent:
				return applet.Status(1)
			case list:
				fmt.Fprintf(e.Stdout, "%*d %3o %3o\n", width, n, a, b)
				differ = true
			default:
				unit := "char" // as diffutils have it
				if show {
					unit = "byte"
				}
				fmt.Fprintf(e.Stdout, "%s %s differ: %s %d, line %d", names[0], names[1], unit, n, lineNo)
				if show {
					fmt.Fprintf(e.Stdout, " is %3o %s %3o %s", a, visible(a), b, visible(b))
				}
				e.Stdout.WriteByte('\n')
				return applet.Status(1)
			}
		}
		if a == '\n' {
			lineNo++
		}
	}
	if differ {
		return applet.Status(1)
	}
	return nil
}

// visible writes a byte as cat -v would.
func visible(c byte) string {
	meta := ""
	if c >= 128 {
		meta, c = "M-", c-128
	}
	switch {
	case c < 32:
		return meta + "^" + string(rune(c+64))
	case c == 127:
		return meta + "^?"
	}
	return meta + string(rune(c))
}

// Sync writes what is buffered to the disks.
func Sync(e *applet.Env, args []string) error {
	var data, filesystem bool
	var o applet.Options
	o.Bool(&data, 'd', "data")
	o.Bool(&filesystem, 'f', "file-system")
	names, err := o.Parse(args)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		unix.Sync()
	}
	for _, name := range names {
		f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			e.Warnf("error opening %s: %s", applet.Quote(name), applet.Reason(err))
			continue
		}
		switch {
		case filesystem:
			_, _, errno := unix.Syscall(unix.SYS_SYNCFS, f.Fd(), 0, 0)
			if errno != 0 {
				err = errno
			}
		case data:
			err = unix.Fdatasync(int(f.Fd()))
		default:
			err = unix.Fsync(int(f.Fd()))
		}
		f.Close()
		if err != nil {
			e.Warnf("error syncing %s: %s", applet.Quote(name), applet.Reason(err))
		}
	}
	return nil
}

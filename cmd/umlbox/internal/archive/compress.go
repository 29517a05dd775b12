// Package archive holds the applets that pack and unpack.
package archive

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"golang.org/x/sys/unix"
)

// decompress opens a gzip stream by its first bytes. What does not begin with
// them is returned as it is, and ok is false.
//
// Only gzip: the packages for xz, zstd and the like cost every start of every
// applet as much time in their initialisation as all others together.
func decompress(r *bufio.Reader) (out io.Reader, ok bool, err error) {
	head, err := r.Peek(6)
	if err != nil && err != io.EOF {
		return nil, false, err
	}
	for _, f := range [...]struct{ magic, name string }{
		{"BZh", "bzip2"}, {"\xfd7zXZ\x00", "xz"}, {"\x28\xb5\x2f\xfd", "zstd"}, {"\x1f\x9d", "compress"},
	} {
		if strings.HasPrefix(string(head), f.magic) {
			return nil, false, fmt.Errorf("compressed with %s; only gzip is known here", f.name)
		}
	}
	if !strings.HasPrefix(string(head), "\x1f\x8b") {
		return r, false, nil
	}
	out, err = gzip.NewReader(r)
	return out, true, err
}

type gz struct {
	e                                           *applet.Env
	stdout, unpack, force, keep, quiet, verbose bool
	test                                        bool
	left                                        bool // a file was left alone
	level                                       int
	suffix                                      string
}

// suffixes of compressed files and what they become.
var suffixes = [...][2]string{{".tgz", ".tar"}, {".gz", ""}}

// Gzip packs and unpacks files: gzip, and by name gunzip and zcat.
func Gzip(e *applet.Env, args []string) error {
	g := &gz{e: e, level: -1, suffix: ".gz"}
	switch e.Name {
	case "gunzip":
		g.unpack = true
	case "zcat":
		g.unpack, g.stdout = true, true
	}
	var o applet.Options
	o.Bool(&g.stdout, 'c', "stdout")
	o.Bool(&g.unpack, 'd', "decompress")
	o.Bool(&g.force, 'f', "force")
	o.Bool(&g.keep, 'k', "keep")
	o.Bool(&g.quiet, 'q', "quiet")
	o.Bool(&g.verbose, 'v', "verbose")
	o.Bool(&g.test, 't', "test")
	o.String(&g.suffix, 'S', "suffix")
	o.Func(0, "fast", func() { g.level = 1 })
	o.Func(0, "best", func() { g.level = 9 })
	for n := byte(1); n <= 9; n++ {
		o.Func('0'+n, "", func() { g.level = int(n) })
	}
	files, err := o.Parse(args)
	if err != nil {
		return err
	}
	g.unpack = g.unpack || g.test
	if len(files) == 0 {
		files = []string{"-"}
	}
	for _, name := range files {
		if name != "-" {
			g.warn(g.file(name))
			continue
		}
		if !g.unpack && !g.force && applet.IsTerminal(1) {
			return errors.New("compressed data is not written to a terminal; -f forces it")
		}
		var out io.Writer = e.Stdout
		if g.test {
			out = io.Discard
		}
		if err := g.convert(out, e.Stdin); err != nil {
			g.warn(fmt.Errorf("stdin: %w", err))
		}
	}
	if g.left && !e.Failed() {
		e.Stdout.Flush()
		return applet.Status(2)
	}
	return nil
}

// ignored is a file that is left alone; that alone makes the status 2.
type ignored struct{ text string }

func (i *ignored) Error() string { return i.text }

func (g *gz) warn(err error) {
	if ign, ok := err.(*ignored); ok {
		g.left = true
		if !g.quiet {
			fmt.Fprintf(g.e.Stderr, "%s: %s\n", g.e.Name, ign.text)
		}
		return
	}
	if err != nil && g.quiet {
		g.e.Fail()
		return
	}
	g.e.Warn(err)
}

func (g *gz) convert(w io.Writer, r io.Reader) error {
	if g.unpack {
		in := bufio.NewReaderSize(r, 64<<10)
		out, ok, err := decompress(in)
		if err != nil {
			return err
		}
		if !ok && !(g.force && g.stdout) {
			if _, err := in.Peek(1); err == io.EOF {
				return errors.New("unexpected end of file")
			}
			return errors.New("not in gzip format")
		}
		if _, err = io.Copy(w, out); errors.Is(err, io.ErrUnexpectedEOF) {
			err = errors.New("unexpected end of file")
		}
		return err
	}
	z, err := gzip.NewWriterLevel(w, g.level)
	if err != nil {
		return err
	}
	if f, ok := r.(*os.File); ok && f != os.Stdin {
		if st, err := f.Stat(); err == nil {
			z.Name, z.ModTime = st.Name(), st.ModTime()
		}
	}
	if _, err := io.Copy(z, r); err != nil {
		return err
	}
	return z.Close()
}

// file converts one file beside itself, or to standard output.
func (g *gz) file(name string) error {
	in, err := os.Open(name)
	if err != nil && g.unpack && errors.Is(err, os.ErrNotExist) {
		if in, err = os.Open(name + g.suffix); err == nil {
			name += g.suffix
		}
	}
	if err != nil {
		return err
	}
	defer in.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(in.Fd()), &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return &ignored{name + " is a directory -- ignored"}
	}
	if g.test {
		if err := g.convert(io.Discard, in); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if g.verbose {
			fmt.Fprintf(g.e.Stderr, "%s:\t OK\n", name)
		}
		return nil
	}
	if g.stdout {
		if !g.unpack && !g.force && applet.IsTerminal(1) {
			return errors.New("compressed data is not written to a terminal; -f forces it")
		}
		if err := g.convert(g.e.Stdout, in); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	}
	target := ""
	if g.unpack {
		for _, s := range append(suffixes[:], [2]string{g.suffix, ""}) {
			if base, ok := strings.CutSuffix(name, s[0]); ok && base != "" && s[0] != "" {
				target = base + s[1]
			}
		}
		if target == "" {
			return &ignored{name + ": unknown suffix -- ignored"}
		}
	} else {
		if strings.HasSuffix(name, g.suffix) && !g.force {
			return &ignored{name + " already has " + g.suffix + " suffix -- unchanged"}
		}
		target = name + g.suffix
	}
	if err := g.replace(name, target, in, &st); err != nil {
		return err
	}
	if g.verbose {
		fmt.Fprintf(g.e.Stderr, "%s:\t replaced with %s\n", name, target)
	}
	if !g.keep {
		return os.Remove(name)
	}
	return nil
}

func (g *gz) replace(name, target string, in *os.File, st *unix.Stat_t) error {
	if _, err := os.Lstat(target); err == nil {
		if !g.force {
			return fmt.Errorf("%s already exists; not overwritten", target)
		}
		if err := os.Remove(target); err != nil {
			return err
		}
	}
	out, err := os.OpenFile(target, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = g.convert(out, in)
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		os.Remove(target)
		return fmt.Errorf("%s: %w", name, err)
	}
	unix.Chown(target, int(st.Uid), int(st.Gid)) // for others than root it stays theirs
	if err := unix.Chmod(target, st.Mode&0o7777); err != nil {
		return err
	}
	return os.Chtimes(target, time.Unix(st.Atim.Unix()), time.Unix(st.Mtim.Unix()))
}

package file

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"github.com/umlkit/umlkit/cmd/umlbox/internal/clock"
	"github.com/umlkit/umlkit/filemode"
	"golang.org/x/sys/unix"
)

// actions reads a primary that does something. ok says whether name is one.
func (p *findParser) actions(name string) (t test, ok bool, err error) {
	f := p.f
	switch name {
	case "-print":
		return f.print('\n'), true, nil
	case "-print0":
		return f.print(0), true, nil
	case "-printf":
		format, err := p.value(name)
		return func(x *found) bool { f.printf(x, format); return true }, true, err
	case "-ls":
		l := &lister{e: f.e, db: f.db, now: f.now, long: true, inode: true, blocks: true}
		return func(x *found) bool {
			it := item{name: x.path, path: x.path, st: x.st}
			if x.st.Mode&unix.S_IFMT == unix.S_IFLNK {
				it.link, _ = os.Readlink(x.path)
			}
			l.print([]item{it})
			return true
		}, true, nil
	case "-quit":
		return func(*found) bool { f.quit = true; return true }, true, nil
	case "-delete":
		f.post = true
		return f.delete, true, nil
	case "-exec", "-ok":
		t, err := p.exec(name)
		return t, true, err
	}
	return nil, false, nil
}

func (f *finder) print(end byte) test {
	return func(x *found) bool {
		f.e.Stdout.WriteString(x.path)
		f.e.Stdout.WriteByte(end)
		return true
	}
}

func (f *finder) delete(x *found) bool {
	if x.name == "." || x.name == ".." {
		return true
	}
	if err := os.Remove(x.path); err != nil {
		f.e.Warnf("cannot delete %s: %s", applet.Quote(x.path), applet.Reason(err))
		return false
	}
	return true
}

// batch collects files for one run of -exec … +.
type batch struct {
	f     *finder
	argv  []string
	files []string
	size  int
}

// maxBatch bounds the bytes of arguments in one run.
const maxBatch = 96 << 10

func (b *batch) add(path string) {
	if b.size+len(path) > maxBatch {
		b.flush()
	}
	b.files = append(b.files, path)
	b.size += len(path) + 9
}

func (b *batch) flush() {
	if len(b.files) > 0 && !b.f.run(append(append([]string{}, b.argv...), b.files...)) {
		b.f.e.Fail()
	}
	b.files, b.size = nil, 0
}

// exec reads COMMAND … ; or COMMAND … {} +
func (p *findParser) exec(name string) (test, error) {
	f := p.f
	var argv []string
	for {
		if len(p.args) == 0 {
			return nil, applet.Usagef("missing argument to %s", applet.Quote(name))
		}
		word := p.next()
		if word == ";" {
			break
		}
		if word == "+" && len(argv) > 1 && argv[len(argv)-1] == "{}" && name == "-exec" {
			b := &batch{f: f, argv: argv[:len(argv)-1]}
			f.batches = append(f.batches, b)
			return func(x *found) bool { b.add(x.path); return true }, nil
		}
		argv = append(argv, word)
	}
	if len(argv) == 0 {
		return nil, applet.Usagef("missing argument to %s", applet.Quote(name))
	}
	return func(x *found) bool {
		full := make([]string, len(argv))
		for i, w := range argv {
			full[i] = strings.ReplaceAll(w, "{}", x.path)
		}
		if name == "-ok" && !ask(f.e, "< %s ... %s > ? ", argv[0], x.path) {
			return false
		}
		return f.run(full)
	}, nil
}

func (f *finder) run(argv []string) bool {
	f.e.Stdout.Flush()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = f.e.Stdin, os.Stdout, f.e.Stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		f.e.Warnf("%s: %s", applet.Quote(argv[0]), applet.Reason(err))
	}
	return err == nil
}

// printf writes the conversions of GNU find: %p %f %h %P %H %s %m %M %u %g %U
// %G %d %l %y %i %n %b %k %D %t %T@ %TX.
func (f *finder) printf(x *found, format string) {
	format = strings.NewReplacer(`\n`, "\n", `\t`, "\t", `\0`, "\x00", `\\`, `\`).Replace(format)
	w := f.e.Stdout
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			w.WriteByte(format[i])
			continue
		}
		end := i + 1
		for end < len(format)-1 && strings.IndexByte("-+ #0123456789.", format[end]) >= 0 {
			end++
		}
		spec, c := format[i+1:end], format[end]
		i = end
		var when unix.Timespec
		switch c {
		case '%':
			w.WriteByte('%')
			continue
		case 'A':
			when = x.st.Atim
		case 'C':
			when = x.st.Ctim
		case 'T':
			when = x.st.Mtim
		default:
			text, ok := f.field(x, c)
			if !ok {
				text = format[end-len(spec)-1 : end+1]
			}
			w.WriteString(pad(text, spec))
			continue
		}
		if i+1 < len(format) {
			i++
			if format[i] == '@' {
				fmt.Fprintf(w, "%d.%09d0", when.Sec, when.Nsec)
			} else {
				w.WriteString(clock.Format(time.Unix(when.Unix()), "%"+format[i:i+1]))
			}
		}
	}
}

func (f *finder) field(x *found, c byte) (string, bool) {
	st := &x.st
	u := func(n uint64) (string, bool) { return strconv.FormatUint(n, 10), true }
	when := func(ts unix.Timespec) (string, bool) {
		return time.Unix(ts.Unix()).Format("Mon Jan _2 15:04:05.0000000000 2006"), true
	}
	switch c {
	case 'p':
		return x.path, true
	case 'f':
		return x.name, true
	case 'h':
		return dirOf(x.path), true
	case 'H':
		return x.start, true
	case 'P':
		return strings.TrimPrefix(strings.TrimPrefix(x.path, x.start), "/"), true
	case 's':
		return u(uint64(st.Size))
	case 'm':
		return strconv.FormatUint(uint64(st.Mode&0o7777), 8), true
	case 'M':
		return filemode.String(st.Mode), true
	case 'u':
		return f.db.UserName(st.Uid), true
	case 'g':
		return f.db.GroupName(st.Gid), true
	case 'U':
		return u(uint64(st.Uid))
	case 'G':
		return u(uint64(st.Gid))
	case 'd':
		return strconv.Itoa(x.depth), true
	case 'D':
		return u(uint64(st.Dev))
	case 'l':
		target, _ := os.Readlink(x.path)
		return target, true
	case 'y':
		s := filemode.String(st.Mode)[:1]
		if s == "-" {
			s = "f"
		}
		return s, true
	case 'i':
		return u(st.Ino)
	case 'n':
		return u(uint64(st.Nlink))
	case 'b':
		return u(uint64(st.Blocks))
	case 'k':
		return u(uint64(st.Blocks+1) / 2)
	case 't':
		return when(st.Mtim)
	case 'a':
		return when(st.Atim)
	case 'c':
		return when(st.Ctim)
	}
	return "", false
}

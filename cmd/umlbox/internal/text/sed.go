package text

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/applet"
	"golang.org/x/sys/unix"
)

// sed is one run: the program, and the state it works on.
type sed struct {
	e        *applet.Env
	program  []*sedCommand
	quiet    bool
	extended bool
	separate bool // line numbers and $ are those of each file
	inPlace  bool
	backup   string
	end      byte

	in      sedInput
	out     io.Writer
	files   map[string]*os.File // of w and W
	pattern []byte
	hold    []byte
	line    int
	missing bool // the last line had no newline
	owed    bool // nor has the output one yet
	after   []func() error
	last    *regexp.Regexp // what an empty expression stands for
	changed bool           // an s did something since the last line or t
}

// Sed edits text by a program.
func Sed(e *applet.Env, args []string) error {
	s := &sed{e: e, end: '\n', files: map[string]*os.File{}}
	var script []string
	// -i has an argument only when it is attached.
	for i, a := range args {
		if a == "--" {
			break
		}
		if rest, ok := strings.CutPrefix(a, "-i"); ok {
			s.inPlace, s.separate, s.backup = true, true, rest
			args = append(append([]string{}, args[:i]...), args[i+1:]...)
			break
		}
	}
	var o applet.Options
	o.Bool(&s.quiet, 'n', "quiet")
	o.Bool(&s.extended, 'E', "regexp-extended")
	o.Bool(&s.extended, 'r', "")
	o.Bool(&s.separate, 's', "separate")
	o.Func('z', "null-data", func() { s.end = 0 })
	o.Value('e', "expression", func(t string) error { script = append(script, t); return nil })
	o.Value('f', "file", func(path string) error {
		b, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("couldn't open file %s: %s", path, applet.Reason(err))
		}
		script = append(script, strings.TrimSuffix(string(b), "\n"))
		return nil
	})
	operands, err := o.Parse(args)
	if err != nil {
		return err
	}
	if script == nil {
		if len(operands) == 0 {
			return applet.Usagef("no script specified")
		}
		script, operands = operands[:1], operands[1:]
	}
	text := strings.Join(script, "\n")
	if strings.HasPrefix(text, "#n\n") || text == "#n" {
		s.quiet = true
	}
	p := &sedParser{s: s, text: text}
	if s.program, err = p.parse(); err != nil {
		return fmt.Errorf("script character %d: %w", p.pos, err)
	}
	s.out = e.Stdout
	s.in = sedInput{s: s, names: operands}
	if len(operands) == 0 {
		s.in.names = []string{"-"}
	}
	status, err := s.run()
	if cerr := s.in.close(err == nil); err == nil {
		err = cerr
	}
	for _, f := range s.files {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}
	if err != nil {
		e.Warn(err)
		return applet.Status(4)
	}
	e.Stdout.Flush()
	if status != 0 {
		return applet.Status(status)
	}
	if e.Failed() {
		return applet.Status(2)
	}
	return nil
}

// sedInput gives the lines of all files, one ahead, so that $ is known.
type sedInput struct {
	s      *sed
	names  []string
	r      *bufio.Reader
	f      *os.File
	name   string
	tmp    *os.File // with -i, what becomes the file
	buffer *bufio.Writer
	ahead  []byte
	ended  bool // ahead had its newline
	has    bool
}

// fill reads the next line of the current file; false at its end.
func (in *sedInput) fill() (bool, error) {
	if in.has {
		return true, nil
	}
	if in.r == nil {
		return false, nil
	}
	line, err := in.r.ReadBytes(in.s.end)
	if err != nil && err != io.EOF {
		return false, fmt.Errorf("read error on %s: %s", in.name, applet.Reason(err))
	}
	if len(line) == 0 {
		return false, nil
	}
	in.ended = line[len(line)-1] == in.s.end
	if in.ended {
		line = line[:len(line)-1]
	}
	in.ahead, in.has = line, true
	return true, nil
}

// next takes a line; io.EOF after the last of the last file.
func (in *sedInput) next() error {
	for {
		ok, err := in.fill()
		if err != nil {
			return err
		}
		if ok {
			in.s.pattern = append(in.s.pattern, in.ahead...)
			in.s.missing = !in.ended
			in.has = false
			in.s.line++
			return nil
		}
		if err := in.close(true); err != nil {
			return err
		}
		if len(in.names) == 0 {
			return io.EOF
		}
		if err := in.open(); err != nil {
			return err
		}
	}
}

// open begins the next file. What cannot be read is reported and left out;
// what cannot be edited in place ends the run.
func (in *sedInput) open() error {
	s := in.s
	in.name, in.names = in.names[0], in.names[1:]
	if s.separate {
		s.line = 0
	}
	if in.name == "-" && !s.inPlace {
		in.r = bufio.NewReader(s.e.Stdin)
		return nil
	}
	f, err := os.Open(in.name)
	if err != nil {
		s.e.Warnf("can't read %s: %s", in.name, applet.Reason(err))
		return nil
	}
	st, err := f.Stat()
	switch {
	case err != nil:
	case s.inPlace && !st.Mode().IsRegular():
		err = fmt.Errorf("couldn't edit %s: not a regular file", in.name)
	case s.inPlace:
		in.tmp, err = os.CreateTemp(filepath.Dir(in.name), ".sed")
	case st.IsDir():
		s.e.Warnf("couldn't read %s: Is a directory", in.name)
		f.Close()
		return nil
	}
	if err != nil {
		f.Close()
		return err
	}
	in.f, in.r = f, bufio.NewReader(f)
	if s.inPlace {
		in.buffer = bufio.NewWriter(in.tmp)
		s.out, s.owed = in.buffer, false
	}
	return nil
}

// close ends the current file, and with -i puts the new one in its place.
func (in *sedInput) close(keep bool) (err error) {
	if in.tmp != nil {
		err = in.replace(keep)
	}
	if in.f != nil {
		in.f.Close()
	}
	in.f, in.r, in.tmp = nil, nil, nil
	return err
}

func (in *sedInput) replace(keep bool) error {
	tmp := in.tmp.Name()
	err := in.buffer.Flush()
	var st unix.Stat_t
	if err == nil {
		if err = unix.Fstat(int(in.f.Fd()), &st); err == nil {
			in.tmp.Chown(int(st.Uid), int(st.Gid)) // for others than root it stays theirs
			err = unix.Fchmod(int(in.tmp.Fd()), st.Mode&0o7777)
		}
	}
	if cerr := in.tmp.Close(); err == nil {
		err = cerr
	}
	if !keep || err != nil {
		os.Remove(tmp)
		return err
	}
	if suffix := in.s.backup; suffix != "" {
		name := in.name + suffix
		if strings.Contains(suffix, "*") {
			name = filepath.Join(filepath.Dir(in.name), strings.ReplaceAll(suffix, "*", filepath.Base(in.name)))
		}
		if err := os.Rename(in.name, name); err != nil {
			os.Remove(tmp)
			return err
		}
	}
	return os.Rename(tmp, in.name)
}

// last says whether no line follows, in this file or, unless files are
// separate, in all that remain.
func (in *sedInput) last() (bool, error) {
	for {
		ok, err := in.fill()
		if ok || err != nil {
			return false, err
		}
		if in.s.separate || len(in.names) == 0 {
			return true, nil
		}
		if err := in.close(true); err != nil {
			return false, err
		}
		if err := in.open(); err != nil {
			return false, err
		}
	}
}

// write writes to the output of the current file, behind the end that the
// line before lacked.
func (s *sed) write(p []byte) error {
	if s.owed {
		s.owed = false
		if _, err := s.out.Write([]byte{s.end}); err != nil {
			return err
		}
	}
	_, err := s.out.Write(p)
	return err
}

// put writes a line with its end, if it had one.
func (s *sed) put(line []byte) error {
	if err := s.write(line); err != nil {
		return err
	}
	if s.missing {
		s.owed = true
		return nil
	}
	return s.write([]byte{s.end})
}

// cycleEnd prints the pattern space and what a and r appended.
func (s *sed) cycleEnd() error {
	if !s.quiet {
		if err := s.put(s.pattern); err != nil {
			return err
		}
	}
	return s.appended()
}

func (s *sed) appended() error {
	for _, f := range s.after {
		if err := f(); err != nil {
			return err
		}
	}
	s.after = s.after[:0]
	return nil
}

// run executes the program for every line. It returns the exit status of q.
func (s *sed) run() (int, error) {
	restart := false // D: the same pattern space once more
	for {
		if !restart {
			s.pattern = s.pattern[:0]
			if err := s.in.next(); err == io.EOF {
				return 0, nil
			} else if err != nil {
				return 0, err
			}
		}
		restart = false
		s.changed = false
		action, status, err := s.cycle()
		if err != nil {
			return 0, err
		}
		switch action {
		case sedQuit:
			return status, s.cycleEnd()
		case sedQuitSilent:
			return status, nil
		case sedDelete:
			err = s.appended()
		case sedRestart:
			restart = true
			err = s.appended()
		case sedEnd:
			return 0, nil
		default:
			err = s.cycleEnd()
		}
		if err != nil {
			return 0, err
		}
	}
}

package shell

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/umlkit/umlkit/cmd/umlbox/internal/account"
	"golang.org/x/sys/unix"
	"mvdan.cc/sh/v3/syntax"
)

// interact is the shell at a terminal.
func (s *Shell) interact() error {
	ed, err := newEditor(s)
	if err != nil {
		return err
	}
	s.editor = ed
	fmt.Fprintln(os.Stderr, "umlbox sh: no job control in this shell; \"umlbox --list\" names the commands")
	var last error
	for {
		input := &lineReader{s: s, ed: ed}
		for stmts, err := range s.parser.InteractiveSeq(input) {
			if input.interrupted {
				last = errInterrupted
				s.evaluate(setStatus)
				break
			}
			if err != nil {
				if !input.eof {
					s.env.Warn(err)
				}
				break
			}
			if s.parser.Incomplete() {
				continue
			}
			for _, stmt := range stmts {
				s.prepare(stmt)
				if last = s.evaluate(stmt); last == errInterrupted {
					fmt.Fprintln(os.Stderr)
					s.evaluate(setStatus)
					break
				}
				if s.runner.Exited() {
					return s.finish(last)
				}
			}
			// The process stands where the shell does, so that a busy mount
			// and /proc/PID/cwd tell the truth.
			os.Chdir(s.runner.Dir)
		}
		if input.eof {
			fmt.Fprintln(os.Stderr, "exit")
			return s.finish(last)
		}
	}
}

// setStatus is the command (exit 130): it gives $? its value after ^C.
var setStatus = &syntax.Stmt{Cmd: &syntax.Subshell{Stmts: []*syntax.Stmt{call(word("exit"), word("130"))}}}

// lineReader feeds the parser with edited lines, each with its prompt.
type lineReader struct {
	s           *Shell
	ed          *editor
	rest        string
	interrupted bool
	eof         bool
}

func (r *lineReader) Read(p []byte) (int, error) {
	if r.rest == "" {
		prompt := r.s.prompt("PS1", "$ ")
		if r.s.parser.Incomplete() {
			prompt = r.s.prompt("PS2", "> ")
		}
		line, err := r.ed.line(prompt)
		switch {
		case errors.Is(err, errInterrupt):
			r.interrupted = true
			return 0, io.EOF
		case err != nil:
			r.eof = true
			return 0, io.EOF
		}
		r.rest = line + "\n"
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// prompt expands the escapes of a prompt that bash knows: \u \h \H \w \W \$ \n
// \\, and drops \[ and \].
func (s *Shell) prompt(name, fallback string) string {
	text := fallback
	if v, ok := s.runner.Vars[name]; ok && v.IsSet() {
		text = v.String()
	} else if v := s.runner.Env.Get(name); v.IsSet() {
		text = v.String()
	}
	if !strings.Contains(text, `\`) {
		return text
	}
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' || i+1 == len(text) {
			b.WriteByte(text[i])
			continue
		}
		i++
		switch text[i] {
		case 'u':
			db := account.Load()
			b.WriteString(db.UserName(uint32(os.Geteuid())))
		case 'h', 'H':
			host, _ := os.Hostname()
			if text[i] == 'h' {
				host, _, _ = strings.Cut(host, ".")
			}
			b.WriteString(host)
		case 'w':
			b.WriteString(s.tilde())
		case 'W':
			b.WriteString(filepath.Base(s.tilde()))
		case '$':
			if os.Geteuid() == 0 {
				b.WriteByte('#')
			} else {
				b.WriteByte('$')
			}
		case 'n':
			b.WriteString("\r\n")
		case '[', ']':
		case '\\':
			b.WriteByte('\\')
		default:
			b.WriteString(text[i-1 : i+1])
		}
	}
	return b.String()
}

// tilde is the working directory with the home directory shortened.
func (s *Shell) tilde() string {
	dir, home := s.runner.Dir, os.Getenv("HOME")
	if rest, ok := strings.CutPrefix(dir, home); ok && len(home) > 1 && (rest == "" || rest[0] == '/') {
		return "~" + rest
	}
	return dir
}

// reopen opens the terminal once more for the read builtin: a description of
// its own, so that reading it can be interrupted without making descriptor 0,
// which all programs share, non-blocking.
func reopen() *os.File {
	fd, err := unix.Open("/proc/self/fd/0", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.Stdin
	}
	return os.NewFile(uintptr(fd), "/dev/stdin")
}

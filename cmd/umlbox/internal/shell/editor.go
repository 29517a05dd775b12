package shell

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// editor reads lines from the terminal on descriptor 0 with editing and
// history. The terminal is raw only while a line is read.
type editor struct {
	s         *Shell
	term      *term.Terminal
	interrupt bool // the last byte was ^C
	sane      *unix.Termios
}

// errInterrupt says that a line was given up with ^C.
var errInterrupt = errors.New("interrupted")

func newEditor(s *Shell) (*editor, error) {
	sane, err := unix.IoctlGetTermios(0, unix.TCGETS)
	if err != nil {
		return nil, err
	}
	ed := &editor{s: s, sane: sane}
	ed.term = ed.terminal()
	return ed, nil
}

func (ed *editor) terminal() *term.Terminal {
	t := term.NewTerminal(ed, "")
	t.AutoCompleteCallback = ed.complete
	return t
}

// Read gives the terminal's bytes one by one: what is typed ahead belongs to
// the command that the line starts.
func (ed *editor) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, err := os.Stdin.Read(p[:1])
	ed.interrupt = n == 1 && p[0] == 3
	return n, err
}

func (ed *editor) Write(p []byte) (int, error) { return os.Stderr.Write(p) }

// line reads one line, which it returns without its newline.
func (ed *editor) line(prompt string) (string, error) {
	if ed.s.killed.Swap(false) {
		// Programs that are killed leave the terminal as they had it.
		unix.IoctlSetTermios(0, unix.TCSETSW, ed.sane)
	}
	state, err := unix.IoctlGetTermios(0, unix.TCGETS)
	if err != nil {
		return "", err
	}
	if state.Lflag&unix.ECHO == 0 {
		return ed.s.plainLine(prompt) // whoever turned the echo off wants none of ours
	}
	// Bytes as they come. Carriage returns still become newlines, and output is
	// still processed: both matter for what is typed ahead, and for what
	// background commands write.
	raw := *state
	raw.Iflag &^= unix.IXON | unix.ISTRIP | unix.INLCR | unix.IGNCR
	raw.Lflag &^= unix.ICANON | unix.ECHO | unix.ECHONL | unix.ISIG | unix.IEXTEN
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	ed.s.modes.Lock()
	ed.s.cooked.Store(state)
	err = unix.IoctlSetTermios(0, unix.TCSETSW, &raw)
	ed.s.modes.Unlock()
	if err != nil {
		return "", err
	}
	defer ed.s.giveBack()
	stop := ed.followSize()
	defer stop()
	ed.term.SetPrompt(prompt)
	text, err := ed.term.ReadLine()
	if err == nil || errors.Is(err, term.ErrPasteIndicator) {
		return text, nil
	}
	if err == io.EOF && ed.interrupt {
		// The Terminal keeps what was typed; a new one begins afresh.
		history := ed.term.History
		ed.term = ed.terminal()
		ed.term.History = history
		io.WriteString(ed, "^C\r\n")
		return "", errInterrupt
	}
	return "", err
}

// plainLine reads a line as the terminal gives it, without editing.
func (s *Shell) plainLine(prompt string) (string, error) {
	io.WriteString(os.Stderr, prompt)
	s.reading.Store(true)
	defer func() {
		s.reading.Store(false)
		s.reader.SetReadDeadline(time.Time{})
	}()
	var line []byte
	for len(line) < maxInput {
		var b [1]byte
		n, err := s.reader.Read(b[:])
		switch {
		case n == 1 && b[0] == '\n':
			return string(line), nil
		case n == 1:
			line = append(line, b[0])
		case errors.Is(err, os.ErrDeadlineExceeded):
			io.WriteString(os.Stderr, "\n")
			return "", errInterrupt
		case err != nil:
			return string(line), err
		}
	}
	return "", fmt.Errorf("a line of more than %d bytes", maxInput)
}

// maxInput bounds a line that is not edited.
const maxInput = 1 << 20

// followSize keeps the editor's idea of the window up to date.
func (ed *editor) followSize() (stop func()) {
	set := func() {
		if w, h, err := term.GetSize(0); err == nil && w > 0 {
			ed.term.SetSize(w, h)
		}
	}
	set()
	winch := make(chan os.Signal, 1)
	signal.Notify(winch, unix.SIGWINCH)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-winch:
				set()
			case <-done:
				return
			}
		}
	}()
	return func() {
		signal.Stop(winch)
		close(done)
	}
}

// giveBack makes the terminal what it was before a line was edited.
func (s *Shell) giveBack() {
	s.modes.Lock()
	defer s.modes.Unlock()
	s.restore()
}

// restore is giveBack for who holds modes.
func (s *Shell) restore() {
	if state := s.cooked.Swap(nil); state != nil {
		unix.IoctlSetTermios(0, unix.TCSETSW, state)
	}
}

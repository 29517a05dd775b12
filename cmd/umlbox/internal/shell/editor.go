package shell

import (
	"errors"
	"io"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// editor reads lines from the terminal on descriptor 0 with editing and
// history. The terminal is raw only while a line is read.
type editor struct {
	s         *Shell
	term      *term.Terminal
	interrupt bool // the last byte was ^C
	sane      *term.State
}

// errInterrupt says that a line was given up with ^C.
var errInterrupt = errors.New("interrupted")

func newEditor(s *Shell) (*editor, error) {
	sane, err := term.GetState(0)
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
		term.Restore(0, ed.sane)
	}
	state, err := term.MakeRaw(0)
	if err != nil {
		return "", err
	}
	ed.s.cooked.Store(state)
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
	if state := s.cooked.Swap(nil); state != nil {
		term.Restore(0, state)
	}
}

package tty_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/umlkit/umlkit/emulator/internal/borrowed"
	"github.com/umlkit/umlkit/internal/guest"
)

// fullScreen boots to a shell with programs that take the whole screen, and with what they
// need to know of terminals and of characters.
func fullScreen(t *testing.T, programs ...string) *guest.Machine {
	t.Helper()
	files := map[string]string{}
	for _, path := range []string{"/lib/terminfo/l/linux", "/lib/terminfo/s/screen", "/usr/lib/locale/C.utf8/LC_CTYPE"} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatalf("%v: it is in Debian's ncurses-base and libc-bin", err)
		}
		files[path] = string(text)
	}
	init := "mkdir -p /dev/pts; mount -t devpts devpts /dev/pts; ln -s pts/ptmx /dev/ptmx 2>/dev/null; export TERM=linux LC_CTYPE=C.UTF-8 PATH=/bin SHELL=/bin/bash; " + shellInit
	rd := borrowed.Initrd(t, init, append([]string{"bash", "stty"}, programs...), files)
	m := shell(t, "initrd="+rd)
	m.Quiet()
	return m
}

// TestEditor types, follows the window and leaves in vim.
func TestEditor(t *testing.T) {
	// left is the last that vim writes: what is typed before is vim's.
	const left = `\x1b\[30;1H\x1b\[K`
	m := fullScreen(t, "vim.tiny")
	before := m.Sh(limit, "stty -g")
	m.Type("vim.tiny -u NONE --cmd 'set ruler' /tmp/text\n")
	m.Expect(limit, `"/tmp/text" \[New File\]`)
	m.Type("ifirst line\rsecond lime\x7f\x7fne\x1b")
	m.Expect(limit, `second li`)
	m.Resize(30, 90)
	// The ruler moves to where the new window has it.
	m.Expect(limit, `\x1b\[30;\d+H`)
	m.Type(":w\r")
	m.Expect(limit, `written`)
	m.Type(":q\r")
	m.Expect(limit, left)
	m.Quiet()
	if got := m.Sh(limit, "cat /tmp/text"); got != "first line\nsecond line\n" {
		t.Errorf("the text is %q", got)
	}
	if got := m.Sh(limit, "stty size; stty -g"); got != "30 90\n"+before {
		t.Errorf("the terminal is %q after vim, before it %q", got, before)
	}
	// Stopped, brought back and left: the shell has its terminal again.
	m.Sh(limit, "set -m")
	m.Type("vim.tiny -u NONE /tmp/text\n")
	m.Expect(limit, `2 lines, 23 bytes|"/tmp/text" 2L, 23B`)
	m.Type("\x1a")
	m.Expect(limit, `Stopped.*\r\n`)
	if got := m.Sh(limit, "stty -g"); got != before {
		t.Errorf("the terminal is %q while vim is stopped, before it %q", got, before)
	}
	m.Type("fg\n")
	// The cursor comes back when the screen is drawn.
	m.Expect(limit, `first line(?s:.*)\x1b\[\?25h`)
	m.Type(":q\r")
	m.Expect(limit, left)
	m.Quiet()
	if got := m.Sh(limit, "jobs; stty -g"); got != before {
		t.Errorf("after vim there is %q, want %q", got, before)
	}
}

// TestMultiplexer splits a window in tmux, follows the terminal's, leaves and comes back.
func TestMultiplexer(t *testing.T) {
	m := fullScreen(t, "tmux")
	tmux := "tmux -S " + filepath.Join("/tmp", "tmux.socket")
	m.Type(tmux + " -f /dev/null new-session\n")
	m.Expect(limit, `\[0\]`)
	m.Type("echo at $(tty)\r")
	m.Expect(limit, `at /dev/pts/0`)
	m.Type("\x02%")
	m.Type("echo at $(tty), $(stty size)\r")
	m.Expect(limit, `at /dev/pts/1, 39 65`)
	m.Resize(30, 101)
	for range 100 {
		m.Type("stty size >/tmp/size; echo is $(cat /tmp/size); sleep 0.1\r")
		if text := m.Expect(limit, `is \d+ \d+`); text[len(text)-5:] == "29 50" {
			break
		}
	}
	m.Type("\x02d")
	m.Expect(limit, `\[detached`)
	m.Quiet()
	if got := m.Sh(limit, "cat /tmp/size; "+tmux+" list-panes -F '#{pane_tty} #{pane_width}'; stty size"); got != "29 50\n/dev/pts/0 50\n/dev/pts/1 50\n30 101\n" {
		t.Errorf("seen from outside: %q", got)
	}
	m.Sh(limit, tmux+" kill-pane -t 0")
	m.Type(tmux + " attach\n")
	m.Expect(limit, `\[0\]`)
	m.Type("exit\r")
	m.Expect(limit, `\[exited\]`)
	m.Quiet()
	if got, _ := m.Try(limit, tmux+" list-sessions 2>&1 | grep -c 'no server'; ls /dev/pts"); got != "1\nptmx\n" {
		t.Errorf("left behind: %q", got)
	}
}

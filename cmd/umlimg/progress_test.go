package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// On a terminal long work shows itself; elsewhere not a byte of it is written.
func TestProgress(t *testing.T) {
	master, terminal := newTerminal(t)
	file, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()

	for _, w := range []*os.File{terminal, file} {
		p := newProgress(w)
		p.tell(1, 100) // too early to bother anyone
		if p.bar != nil {
			t.Error("work that has only begun is shown")
		}
		p.start = time.Now().Add(-time.Minute)
		p.tell(42, 100)
		p.tell(7, 0)
		p.finish()
		p.finish()
	}
	if info, err := file.Stat(); err != nil || info.Size() != 0 {
		t.Errorf("off a terminal %d bytes are written (%v)", info.Size(), err)
	}
	terminal.Close()
	// What was written can come in parts; behind the last one the other end fails.
	out, err := io.ReadAll(master)
	if err != nil && !errors.Is(err, unix.EIO) {
		t.Fatal(err)
	}
	text := string(out)
	if !strings.Contains(text, "42%") || !strings.HasSuffix(text, " \r") {
		t.Errorf("the terminal shows %q", text)
	}
}

// newTerminal is a terminal and its other end.
func newTerminal(t *testing.T) (master, terminal *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { terminal.Close() })
	return master, terminal
}

package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/umlkit/umlkit/ubdfmt"
)

// On a terminal map draws a picture as wide as that, whose characters are where the data
// is; NO_COLOR takes the colours off.
func TestMapPicture(t *testing.T) {
	dir := t.TempDir()
	base, cow := filepath.Join(dir, "base.img"), filepath.Join(dir, "disk.cow")
	f, err := os.Create(base)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(64 << 20); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(make([]byte, 16<<20), 16<<20); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	dev, err := ubdfmt.Open(cow, base, ubdfmt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dev.WriteAt(make([]byte, 16<<20), 0); err != nil {
		t.Fatal(err)
	}
	if err := dev.Trim(24<<20, 8<<20); err != nil {
		t.Fatal(err)
	}
	if err := dev.Close(); err != nil {
		t.Fatal(err)
	}
	for _, colours := range []string{"", "1"} {
		master, terminal := newTerminal(t)
		if err := unix.IoctlSetWinsize(int(terminal.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 40, Col: 73}); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(os.Args[0], "map", cow)
		cmd.Env = append(os.Environ(), "RUN_UMLIMG=1", "TERM=xterm", "NO_COLOR="+colours)
		cmd.Stdout, cmd.Stderr = terminal, terminal
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		terminal.Close()
		// The terminal's other end fails when the last that has it is gone.
		out, err := io.ReadAll(master)
		if err != nil && !errors.Is(err, unix.EIO) {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		text := strings.ReplaceAll(string(out), "\r", "")
		if strings.Contains(text, "\x1b[") == (colours != "") {
			t.Errorf("NO_COLOR=%s: %q", colours, text)
		}
		if colours == "" {
			continue
		}
		lines := strings.Split(text, "\n")
		if len(lines) != pictureRows+4+1 {
			t.Fatalf("%d lines:\n%s", len(lines), text)
		}
		for row, line := range lines[:pictureRows] {
			want := [kinds]string{0: "█", 1: "▒", 2: "·", 3: "·"}[row/4]
			if row == 6 || row == 7 {
				want = "░"
			}
			if got := strings.TrimLeft(line[labelWidth:], " "); got != strings.Repeat(want, 64) || utf8.RuneCountInString(line) != 73 {
				t.Errorf("row %d is %q", row, line)
			}
		}
		for i, want := range []string{"·  32M  hole", "░  8M  zero, over the backing file", "▒  8M  backing file  " + base, "█  16M  COW file"} {
			if lines[pictureRows+i] != want {
				t.Errorf("the legend has %q, not %q", lines[pictureRows+i], want)
			}
		}
	}

	// The page is XML, whatever the file is called.
	odd := filepath.Join(dir, "<\x01&\xff>.img")
	if err := os.Rename(base, odd); err != nil {
		t.Fatal(err)
	}
	status, page, stderr := call("map", "--svg", "-", odd)
	if status != 0 {
		t.Fatal(stderr)
	}
	for dec := xml.NewDecoder(strings.NewReader(page)); ; {
		if _, err := dec.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatalf("%v in\n%s", err, page)
		}
	}
}

package line

import (
	"fmt"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMarks(t *testing.T) {
	for _, test := range []struct {
		in, out string
		breaks  []int
	}{
		{"plain", "plain", nil},
		{"a\xff\xffb", "a\xffb", nil},
		{"\xff\x00\x00", "", []int{0}},
		{"ab\xff\x00\x00h\xff\x00\x00", "abh", []int{2, 3}},
		{"a\xff\x00eb", "aeb", nil},
		{"\xff\x00\xff", "\xff", nil},
		{"a\x00\x00b", "a\x00\x00b", nil},
		{"\xff\xff\x00\x00", "\xff\x00\x00", nil},
	} {
		var breaks []int
		m := &marks{pressed: func(after int) { breaks = append(breaks, after) }}
		if got := string(m.decode([]byte(test.in))); got != test.out || !slices.Equal(breaks, test.breaks) {
			t.Errorf("%q: %q, breaks after %d; want %q, %d", test.in, got, breaks, test.out, test.breaks)
		}
		// The same, a byte at a time.
		var out string
		breaks = nil
		m = &marks{pressed: func(after int) { breaks = append(breaks, len(out)+after) }}
		for i := range len(test.in) {
			out += string(m.decode([]byte{test.in[i]}))
		}
		if out != test.out || !slices.Equal(breaks, test.breaks) {
			t.Errorf("%q, byte by byte: %q, breaks after %d; want %q, %d", test.in, out, breaks, test.out, test.breaks)
		}
	}
}

// TestBreakOnHostTerminal holds that the host is asked to mark breaks on a terminal that is
// named by its path, that what it does for it (255 twice) is undone, and that a mark is a
// break. A pty has no breaks: the mark is written to it while it adds none of its own.
func TestBreakOnHostTerminal(t *testing.T) {
	user, fd := hostTerminal(t)
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		t.Fatal(err)
	}
	var breaks []int
	before := modes(t, fd)
	c := open(t, NewHost(), "tty:"+path, Options{Break: func(after int) { breaks = append(breaks, after) }})
	if err := c.Raw(); err != nil {
		t.Fatal(err)
	}
	read := func(text, want string) {
		t.Helper()
		if _, err := user.WriteString(text); err != nil {
			t.Fatal(err)
		}
		var got string
		within(t, "Read", func() {
			for b := make([]byte, 100); len(got) < len(want); {
				n, err := c.Read(b)
				if err != nil {
					t.Error(err)
					return
				}
				got += string(b[:n])
			}
		})
		if got != want {
			t.Errorf("of %q the channel reads %q", text, got)
		}
	}
	now := modes(t, fd)
	if now.Iflag&unix.PARMRK == 0 || now.Iflag&(unix.IGNBRK|unix.BRKINT) != 0 {
		t.Errorf("breaks are not marked: iflag %#o", now.Iflag)
	}
	read("a\xff\x00\x00\xffb", "a\xff\x00\x00\xffb")
	if breaks != nil {
		t.Errorf("breaks after %d where there were none", breaks)
	}
	now.Iflag &^= unix.PARMRK
	if err := setTermios(fd, &now); err != nil {
		t.Fatal(err)
	}
	read("a\xff\x00\x00b", "ab")
	if !slices.Equal(breaks, []int{1}) {
		t.Errorf("breaks after %d, want one after 1", breaks)
	}
	c.Close()
	if after := modes(t, fd); after != before {
		t.Errorf("the terminal's modes are not what they were: %+v, %+v", after, before)
	}
}

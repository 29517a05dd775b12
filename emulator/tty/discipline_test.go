package tty

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/usermem"

	"github.com/umlkit/umlkit/internal/oracle"
)

// typist types on a discipline of ours and on one of the host's.
type typist struct {
	t    *testing.T
	ours *discipline
	// signals are the signals of ours, in order.
	signals []linux.Signal
	// user is before the host's terminal, program behind it.
	user, program int
	typed         []byte
}

func newTypist(t *testing.T, modes linux.KernelTermios) *typist {
	t.Helper()
	ty := &typist{t: t}
	out := newOutput()
	out.sink = sinkLine
	ty.ours = newDiscipline(out, func(sig linux.Signal) { ty.signals = append(ty.signals, sig) })
	ty.ours.SetTermios(modes)
	user, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(user, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(user, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		ty.program, err = unix.Open(fmt.Sprintf("/dev/pts/%d", n), unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	ty.user = user
	ty.setHost(modes)
	return ty
}

func (ty *typist) close() {
	unix.Close(ty.user)
	unix.Close(ty.program)
}

func (ty *typist) setHost(modes linux.KernelTermios) {
	host, err := unix.IoctlGetTermios(ty.program, unix.TCGETS)
	if err != nil {
		ty.t.Fatal(err)
	}
	host.Iflag, host.Oflag, host.Lflag = modes.InputFlags, modes.OutputFlags, modes.LocalFlags
	copy(host.Cc[:], modes.ControlCharacters[:])
	if err := unix.IoctlSetTermios(ty.program, unix.TCSETS, host); err != nil {
		ty.t.Fatal(err)
	}
}

// key types one character on both, and compares what they show of it and what can be read.
func (ty *typist) key(c byte) {
	ty.t.Helper()
	ty.typed = append(ty.typed, c)
	if n := ty.ours.Put([]byte{c}); n != 1 {
		ty.t.Fatalf("%q: no room", ty.typed)
	}
	if _, err := unix.Write(ty.user, []byte{c}); err != nil {
		ty.t.Fatal(err)
	}
	want := ty.ours.out.pending
	ty.ours.out.pending = nil
	var got []byte
	buf := make([]byte, 1024)
	for deadline := time.Now().Add(patience); len(got) < len(want) && time.Now().Before(deadline); {
		n, err := unix.Read(ty.user, buf)
		if err == unix.EAGAIN {
			time.Sleep(20 * time.Microsecond)
			continue
		}
		if err != nil {
			ty.t.Fatal(err)
		}
		got = append(got, buf[:n]...)
	}
	if string(got) != string(want) {
		ty.t.Fatalf("%s %q: ours shows %q, the host's %q", ty.modes(), ty.typed, want, got)
	}
}

// read reads once on both and compares.
func (ty *typist) read(size int) {
	ty.t.Helper()
	buf := make([]byte, size)
	n, err := ty.ours.Read(context.Background(), usermem.BytesIOSequence(buf))
	ours := fmt.Sprintf("%q", buf[:n])
	if linuxerr.Equals(linuxerr.ErrWouldBlock, err) {
		ours = "nothing"
	}
	host := ""
	for deadline := time.Now().Add(patience); host != ours && time.Now().Before(deadline); time.Sleep(20 * time.Microsecond) {
		n, err := unix.Read(ty.program, buf)
		switch {
		case errors.Is(err, unix.EAGAIN):
			host = "nothing"
		case err != nil:
			ty.t.Fatal(err)
		default:
			host = fmt.Sprintf("%q", buf[:n])
			deadline = time.Now()
		}
	}
	if host != ours {
		ty.t.Fatalf("%s %q: %d bytes: ours reads %s, the host's %s", ty.modes(), ty.typed, size, ours, host)
	}
}

// nothingElse says that the host shows nothing that ours does not.
func (ty *typist) nothingElse() {
	ty.t.Helper()
	buf := make([]byte, 1024)
	if n, err := unix.Read(ty.user, buf); err != unix.EAGAIN {
		ty.t.Fatalf("%s %q: the host shows %q more (%v)", ty.modes(), ty.typed, buf[:n], err)
	}
}

func (ty *typist) modes() string {
	m := ty.ours.Termios()
	var names []string
	for name, f := range inputFlags {
		if m.InputFlags&f != 0 {
			names = append(names, name)
		}
	}
	for name, f := range localFlags {
		if m.LocalFlags&f != 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return fmt.Sprintf("%s, output %#o:", strings.Join(names, " "), m.OutputFlags)
}

var inputFlags = map[string]uint32{"icrnl": linux.ICRNL, "inlcr": linux.INLCR, "igncr": linux.IGNCR, "istrip": linux.ISTRIP,
	"iutf8": linux.IUTF8, "ixon": linux.IXON, "ixany": linux.IXANY, "imaxbel": linux.IMAXBEL, "parmrk": linux.PARMRK, "iuclc": linux.IUCLC}

var localFlags = map[string]uint32{"icanon": linux.ICANON, "echo": linux.ECHO, "echoe": linux.ECHOE, "echok": linux.ECHOK, "echoke": linux.ECHOKE,
	"echoctl": linux.ECHOCTL, "echonl": linux.ECHONL, "echoprt": linux.ECHOPRT, "iexten": linux.IEXTEN, "isig": linux.ISIG, "noflsh": linux.NOFLSH}

// TestDisciplineIsTheHosts types the same on ours and on the host's discipline.
func TestDisciplineIsTheHosts(t *testing.T) {
	usual := linux.DefaultReplicaTermios
	for _, typed := range []string{
		"hello\n", "hellp\x7fo\n", "one two\x17three\n", "rubbish\x15good\n", "a\x16\x03b\x16\nc\n", "ab\x12cd\n",
		"a\tb\x7f\x7fc\n", "\x01\x02\x7f\x7fx\n", "\x04", "abc\x04", "abc\x04\x04", "\x16\x04x\n", "a\rb\n", "x\x03y\n", "x\x1cy\x1az\n",
		"ta\tb\t\x15x\n", "\x16", "\x16\x16\n", "a\x00b\n", "\x7f\x15\x17\n",
	} {
		ty := newTypist(t, usual)
		for i := range len(typed) {
			ty.key(typed[i])
		}
		for range 3 {
			ty.read(100)
		}
		ty.nothingElse()
		ty.close()
	}
	rounds := 60
	if oracle.Nightly() {
		rounds = 20_000
	}
	r := rand.New(rand.NewPCG(uint64(oracle.Seed(t)), 1))
	// Tabs are typed above: of what reprinting does to their width, and broken characters,
	// the host keeps another account.
	keys := strings.Split("a B _ 1 - \n \n \r \x04 \x04 \x7f \x7f \x7f \x15 \x17 \x16 \x16 \x12 \x03 \x1c \x01 \x00 \x1b \xff ä ä ; : \x11", " ")
	for range rounds {
		modes := usual
		modes.ControlCharacters[linux.VEOL], modes.ControlCharacters[linux.VEOL2] = ';', ':'
		modes.InputFlags, modes.LocalFlags = 0, 0
		for _, name := range slices.Sorted(func(yield func(string) bool) {
			for name := range inputFlags {
				if !yield(name) {
					return
				}
			}
		}) {
			if r.IntN(3) == 0 {
				modes.InputFlags |= inputFlags[name]
			}
		}
		for _, name := range slices.Sorted(func(yield func(string) bool) {
			for name := range localFlags {
				if !yield(name) {
					return
				}
			}
		}) {
			if r.IntN(4) != 0 {
				modes.LocalFlags |= localFlags[name]
			}
		}
		// What is echoed was looked at: without echo the host's would have to be waited for.
		modes.LocalFlags |= linux.ECHO
		ty := newTypist(t, modes)
		for range 30 {
			for _, c := range []byte(keys[r.IntN(len(keys))]) {
				ty.key(c)
			}
			if r.IntN(12) == 0 {
				ty.key('x')
				ty.read(1 + r.IntN(6))
			}
		}
		// Lines on or off: what is there is read in another way.
		ty.key('x')
		if r.IntN(2) == 0 {
			modes.LocalFlags ^= linux.ICANON
			ty.ours.SetTermios(modes)
			ty.setHost(modes)
		}
		for range 12 {
			ty.read(5)
		}
		ty.nothingElse()
		ty.close()
	}
}

func TestLongLineIsCut(t *testing.T) {
	ty := newTypist(t, linux.DefaultReplicaTermios)
	defer ty.close()
	if n := ty.ours.Put(append([]byte(strings.Repeat("x", 6000)), '\n')); n != 6001 {
		t.Errorf("%d were taken", n)
	}
	buf := make([]byte, 8192)
	n, err := ty.ours.Read(context.Background(), usermem.BytesIOSequence(buf))
	if err != nil || n != maxLine+1 || buf[n-1] != '\n' {
		t.Errorf("read %d, %v", n, err)
	}
}

func TestInputThatNobodyReadsIsHeldBack(t *testing.T) {
	ty := newTypist(t, linux.DefaultReplicaTermios)
	defer ty.close()
	modes := linux.DefaultReplicaTermios
	modes.InputFlags |= linux.IXOFF
	modes.LocalFlags &^= linux.ECHO
	ty.ours.SetTermios(modes)
	text := []byte(strings.Repeat("0123456789\n", 10_000))
	n := ty.ours.Put(text)
	if n < typeAhead || n > typeAhead+maxLine {
		t.Fatalf("%d were taken", n)
	}
	if got := string(ty.ours.out.pending); got != "\x13" {
		t.Errorf("the host was sent %q", got)
	}
	buf := make([]byte, 100)
	for range 4000 {
		if got, err := ty.ours.Read(context.Background(), usermem.BytesIOSequence(buf)); err != nil || string(buf[:got]) != "0123456789\n" {
			t.Fatalf("read %q, %v", buf[:got], err)
		}
	}
	if got := string(ty.ours.out.pending); got != "\x13\x11" {
		t.Errorf("the host was sent %q", got)
	}
	if more := ty.ours.Put(text[n:]); more == 0 {
		t.Error("there is no room")
	}
}

func TestBreak(t *testing.T) {
	for _, test := range []struct {
		flags   uint32
		want    string
		signals int
	}{{0, "\x00", 0}, {linux.IGNBRK, "", 0}, {linux.BRKINT, "", 1}, {linux.PARMRK, "\xff\x00\x00", 0}} {
		ty := newTypist(t, linux.KernelTermios{InputFlags: test.flags})
		ty.ours.Break()
		buf := make([]byte, 10)
		n, _ := ty.ours.Read(context.Background(), usermem.BytesIOSequence(buf))
		if string(buf[:n]) != test.want || len(ty.signals) != test.signals {
			t.Errorf("flags %#o: read %q, signals %v", test.flags, buf[:n], ty.signals)
		}
		ty.close()
	}
}
